"""Faults of Slurm's commands as drivers see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..commands import NAMES, set_snippet, wrapped_program
from ..configuration import ClusterError
from ..processes import MARK
from .fault import Fault, argument

_NO_CONTROLLER = "Unable to contact slurm controller (connect failure)"
# What the commands of Slurm 22.05 print when the daemon that they ask doesn't answer.
_WORDS = {
    "sbatch": f"sbatch: error: Batch job submission failed: {_NO_CONTROLLER}",
    "squeue": f"slurm_load_jobs error: {_NO_CONTROLLER}",
    "sacct": "sacct: error: Problem talking to the database: Connection refused",
    "scontrol": f"slurm_load_jobs error: {_NO_CONTROLLER}",
    "scancel": f"scancel: error: slurm_kill_jobs2 error: {_NO_CONTROLLER}",
    "sinfo": f"slurm_load_partitions: {_NO_CONTROLLER}",
}


@dataclass(frozen=True)
class _CommandFault(Fault):
    """Changes what runs before a command of Slurm."""

    command: str = argument(f"one of {', '.join(NAMES)}")

    def repair(self) -> str:
        """See Fault."""
        self.set("")
        return f"{self.command} is not {self.kind} any more"

    def set(self, text: str) -> None:
        """Replace the lines that run before the command; raise ClusterError when it isn't one of them."""
        if self.command not in NAMES:
            raise ClusterError(f"there is no command {self.command} to disturb; choose {', '.join(NAMES)}")
        set_snippet(self.cluster.layout, self.kind, self.command, text)


@dataclass(frozen=True)
class Slow(_CommandFault):
    """A command takes so many seconds longer, for whoever has the cluster's DIR/bin first in PATH."""

    kind: ClassVar[str] = "slow"
    way_back: ClassVar[str] = "it is as fast as ever"

    seconds: float = argument("how much longer", default=10.0, positional=True)

    def inflict(self) -> str:
        """See Fault."""
        if not self.seconds > 0:
            raise ClusterError(f"{self.seconds:g} s longer is not slow; give more than 0, or --repair")
        # A caller that gives up must not wait for the sleep to close its pipe.
        self.set(f"{MARK}={self.cluster.layout.folder} sleep {self.seconds} </dev/null >/dev/null 2>&1\n")
        return f"{self.command} takes {self.seconds:g} s longer"


@dataclass(frozen=True)
class Failing(_CommandFault):
    """A command fails, with Slurm's words for a daemon that doesn't answer.

    With --answer-lost it did before what it was told. That is the worst case of sbatch: the job is in the queue, and nobody
    was told its id.
    """

    kind: ClassVar[str] = "failing"
    way_back: ClassVar[str] = "it works again"

    answer_lost: bool = argument("run it, lose what it says, then fail", default=False)

    def inflict(self) -> str:
        """See Fault."""
        run = f'{wrapped_program(self.command)} "$@" >/dev/null 2>&1\n' if self.answer_lost else ""
        self.set(f'{run}echo "{_WORDS.get(self.command, "")}" >&2\nexit 1\n')
        return f"{self.command} {'does its work and then ' if self.answer_lost else ''}fails"
