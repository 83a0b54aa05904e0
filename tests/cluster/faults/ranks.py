"""Faults of one rank's command: the process group that the executor's launcher started, not the launcher."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .. import processes
from ..configuration import ClusterError
from .fault import Fault, argument, known_job

_NOTHING = 1  # byte: what is there already stays, and memory that was freed may be used again


@dataclass(frozen=True)
class _RankFault(Fault):
    """Does something to the processes of one rank's command."""

    job: str = argument("id of a running job")
    rank: int = argument("rank, from 0")

    def groups(self) -> list[int]:
        """Return the process groups of the rank's command; raise ClusterError when it doesn't run."""
        ranks = processes.commands(self.cluster.layout, self.job)
        if not ranks:
            known_job(self.cluster, self.job)
            running = [job.id for job in self.cluster.jobs() if processes.commands(self.cluster.layout, job.own_id)]
            raise ClusterError(f"job {self.job} runs no command with a RANK; jobs that do: {', '.join(running) or 'none'}")
        if self.rank not in ranks:
            raise ClusterError(f"job {self.job} has no rank {self.rank}; it has {', '.join(map(str, sorted(ranks)))}")
        return sorted(ranks[self.rank])

    def remaining(self) -> list[int]:
        """Return the same, or an empty list when the command of a job that exists has ended."""
        groups = processes.commands(self.cluster.layout, self.job).get(self.rank)
        if not groups:
            known_job(self.cluster, self.job)
        return sorted(groups or ())

    def send(self, number: signal.Signals, groups: list[int]) -> str:
        """Send a signal to the whole of the command."""
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
        return f"{number.name} sent to rank {self.rank} of job {self.job}, process group {', '.join(map(str, groups))}"


@dataclass(frozen=True)
class Hang(_RankFault):
    """The command of one rank stands still (SIGSTOP to its process group); its launcher and the other ranks don't."""

    kind: ClassVar[str] = "hang"
    way_back: ClassVar[str] = "it goes on (SIGCONT)"

    def inflict(self) -> str:
        """See Fault."""
        return self.send(signal.SIGSTOP, self.groups())

    def repair(self) -> str:
        """See Fault."""
        groups = self.remaining()
        return self.send(signal.SIGCONT, groups) if groups else f"rank {self.rank} of job {self.job} has ended"


@dataclass(frozen=True)
class KillRank(_RankFault):
    """The command of one rank is killed (SIGKILL to its process group), as by the kernel's out-of-memory killer."""

    kind: ClassVar[str] = "kill-rank"

    def inflict(self) -> str:
        """See Fault."""
        return self.send(signal.SIGKILL, self.groups())


@dataclass(frozen=True)
class OutOfMemory(_RankFault):
    """The command of one rank gets no more memory: its next request to the kernel fails ("Cannot allocate memory").

    What it has, and may use again, stays, so a program that asks for nothing new goes on. Slurm's own enforcement is
    an option of the cluster: `start --memory-limits` kills jobs that use more than they asked for.
    """

    kind: ClassVar[str] = "out-of-memory"
    way_back: ClassVar[str] = "it gets memory again"

    def inflict(self) -> str:
        """See Fault."""
        return self._limit(_NOTHING, self.groups(), "gets no more memory")

    def repair(self) -> str:
        """See Fault."""
        groups = self.remaining()
        return self._limit(None, groups, "gets memory again" if groups else "has ended")

    def _limit(self, soft: int | None, groups: list[int], words: str) -> str:
        """Set the address space's limit of every process of the command, None for the hard limit."""
        for process in processes.all_processes():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(process.pid) in groups:
                    _, hard = resource.prlimit(process.pid, resource.RLIMIT_AS)
                    resource.prlimit(process.pid, resource.RLIMIT_AS, (hard if soft is None else soft, hard))
        return f"rank {self.rank} of job {self.job} {words}"


@dataclass(frozen=True)
class KillServer(Fault):
    """A server that a job has started beside its ranks is killed (SIGKILL); the ranks aren't."""

    kind: ClassVar[str] = "kill-server"

    job: str = argument("id of a running job")
    program: str = argument("what its command line holds")

    def inflict(self) -> str:
        """See Fault."""
        groups = {group for ranks in processes.commands(self.cluster.layout, self.job).values() for group in ranks}
        known_job(self.cluster, self.job)
        for group in sorted(groups):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{group}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if self.program in words:
                    os.kill(group, signal.SIGKILL)
                    return f"SIGKILL sent to process {group} of job {self.job}: {words.strip()}"
        raise ClusterError(f"job {self.job} runs no server with {self.program} in its command line")
