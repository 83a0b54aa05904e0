"""Which processes of this machine belong to a cluster, to one of its nodes, or to one rank of a job."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .configuration import ClusterError, Layout

MARK = "ATHANOR_TEST_CLUSTER"  # in the environment of every daemon, with the cluster's folder
DAEMON_MARK = "ATHANOR_TEST_DAEMON"  # with the daemon's name; slurmstepd inherits its slurmd's
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it."""

    pid: int
    environment: dict[str, str]
    """What it was started with."""

    @property
    def folder(self) -> Path:
        """Its folder in /proc."""
        return Path("/proc") / str(self.pid)

    @property
    def program(self) -> str:
        """Name of the program, at most 15 characters."""
        with contextlib.suppress(OSError):
            return (self.folder / "comm").read_text().strip()
        return ""

    def has_mount(self, *folders: Path) -> bool:
        """Say whether something is mounted at one of the folders where this process lives."""
        with contextlib.suppress(OSError):
            mounts = (self.folder / "mountinfo").read_text(errors="replace")
            return any(f" {folder} " in mounts for folder in folders)
        return False


def all_processes() -> Iterator[Process]:
    """Yield every process that can be looked at, but neither this one nor its parent."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (os.getpid(), os.getppid()):
            with contextlib.suppress(OSError):
                words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                yield Process(int(entry.name), dict(word.split("=", 1) for word in words if "=" in word))


def of_cluster(layout: Layout) -> list[int]:
    """List the cluster's processes: daemons by their mark, those of jobs also by their namespace or Slurm's variables."""
    return [process.pid for process in all_processes() if _is_marked(process, layout) or _is_job(process, layout)]


def of_node(layout: Layout, node: str) -> list[int]:
    """List everything that lives on a node: it has the node's own mount, however it was started and detached."""
    return [process.pid for process in all_processes() if process.has_mount(layout.spool / node)]


def daemon(layout: Layout, name: str) -> int | None:
    """Return the pid of a daemon such as `slurmctld` or `slurmd.node1`, or None when it doesn't run."""
    program = name.partition(".")[0]
    for process in all_processes():
        if _is_marked(process, layout) and process.environment.get(DAEMON_MARK) == name and process.program == program:
            return process.pid
    return None


def commands(layout: Layout, job_id: str) -> dict[int, set[int]]:
    """Return the process groups of a job's commands by rank; a group's id is the pid of its first process.

    `job_id` is the job's number, or `7_2` for a task of an array.

    The executor's launcher starts the command of its rank in a session of its own, with RANK in the environment. The
    launcher itself, srun and slurmstepd have no RANK.
    """
    groups: dict[int, set[int]] = {}
    for process in all_processes():
        rank = process.environment.get("RANK", "")
        if rank.isdigit() and job_id in _job_ids(process) and _is_job(process, layout):
            with contextlib.suppress(ProcessLookupError):
                groups.setdefault(int(rank), set()).add(os.getpgid(process.pid))
    return groups


def kill(find: Callable[[], list[int]]) -> None:
    """Kill what `find` lists until it lists nothing: a process may be starting another. Raises ClusterError."""
    end = time.monotonic() + _KILL_SECONDS
    while pids := find():
        if time.monotonic() > end:
            raise ClusterError(f"processes that survive SIGKILL for {_KILL_SECONDS:.0f} s: {pids}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _job_ids(process: Process) -> set[str]:
    known = process.environment
    task = f"{known.get('SLURM_ARRAY_JOB_ID', '')}_{known.get('SLURM_ARRAY_TASK_ID', '')}"
    return {known.get("SLURM_JOB_ID", ""), task}


def _is_marked(process: Process, layout: Layout) -> bool:
    return process.environment.get(MARK) == str(layout.folder)


def _is_job(process: Process, layout: Layout) -> bool:
    if "SLURM_JOB_ID" in process.environment and process.environment.get("SLURM_CONF") == str(layout.configuration):
        return True
    return process.has_mount(*(layout.spool / node for node in layout.nodes))
