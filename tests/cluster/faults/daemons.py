"""Faults of nodes and of Slurm's own daemons."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from dataclasses import dataclass
from typing import ClassVar

from .. import processes
from ..accounting import start_slurmdbd
from ..configuration import ClusterError
from .fault import Fault, argument, known_node

_END_SECONDS = 30.0


@dataclass(frozen=True)
class NodeDeath(Fault):
    """A power cut: the node's slurmd, slurmstepd and every process of its jobs vanish at once.

    Slurm notices by itself: the node is DOWN and its jobs NODE_FAIL after 24 to 28 s, and those that may be requeued wait
    again 5 to 9 s later.
    """

    kind: ClassVar[str] = "node-death"
    way_back: ClassVar[str] = "the node boots, and is idle"

    node: str = argument("name of the node, such as node1")

    def inflict(self) -> str:
        """See Fault."""
        node = known_node(self.cluster, self.node)
        if self.cluster.daemon(f"slurmd.{node}") is None:
            raise ClusterError(f"{node} is dead already; --repair boots it")
        victims = processes.of_node(self.cluster.layout, node)
        processes.kill(lambda: processes.of_node(self.cluster.layout, node))
        return f"{node} lost its power, and with it {len(victims)} processes; Slurm notices in half a minute"

    def repair(self) -> str:
        """See Fault."""
        node = known_node(self.cluster, self.node)
        if self.cluster.daemon(f"slurmd.{node}") is None:
            before = self._started()
            time.sleep(1.0)  # Slurm shows the start of a slurmd in whole seconds
            self.cluster.start_node(node)
            self.cluster.wait(lambda: self._started() not in (before, ""), f"slurmd.{node}")
        self.cluster.wait(lambda: _serves(self.cluster.node_states(node)), f"slurmd.{node}")
        return f"{node} is up"

    def _started(self) -> str:
        """Return when the slurmd that Slurm knows on this node was started; empty when nobody answers."""
        found = re.search(r"SlurmdStartTime=(\S+)", self.cluster.ask("scontrol", "show", "node", self.node))
        return found.group(1) if found else ""


def _serves(states: set[str]) -> bool:
    """Say whether a node that Slurm shows in these states answers it: none is marked by * or down."""
    return bool(states) and not any(state.endswith("*") or state.startswith(("down", "unk", "fail")) for state in states)


@dataclass(frozen=True)
class ControllerKill(Fault):
    """slurmctld is killed: no command gets an answer (after 9 s), jobs run on.

    It saves the state of jobs at most every 5 s, so what happened in the last seconds may be forgotten, and job ids given a
    second time. With --forget it is, for certain: the newest file of job states is lost, as in a crash before the disk had it,
    and slurmctld starts from the one before.
    """

    kind: ClassVar[str] = "controller-kill"
    way_back: ClassVar[str] = "slurmctld starts again, from the state that it finds"

    forget: bool = argument("lose the newest file of job states too", default=False)

    def inflict(self) -> str:
        """See Fault."""
        pid = _running(self.cluster.daemon("slurmctld"), "slurmctld")
        newest = self.cluster.layout.folder / "state" / "job_state"
        before = newest.with_name("job_state.old")
        if self.forget and not (newest.exists() and before.exists()):
            raise ClusterError(f"slurmctld has not saved its jobs twice yet, so nothing older is there to go back to: {before}")
        _end(pid, signal.SIGKILL)
        if not self.forget:
            return "slurmctld is killed; jobs run on, no command gets an answer"
        age = time.time() - before.stat().st_mtime
        newest.unlink()
        return f"slurmctld is killed, and will know jobs as they were {age:.1f} s ago"

    def repair(self) -> str:
        """See Fault."""
        return _answering(self)


@dataclass(frozen=True)
class ControllerStop(Fault):
    """slurmctld is stopped as an administrator does it: its state is saved, no command gets an answer, jobs run on.

    With --hung it is frozen (SIGSTOP) instead: connections are accepted and never answered, commands give up after 10 s.
    """

    kind: ClassVar[str] = "controller-stop"
    way_back: ClassVar[str] = "slurmctld answers again"

    hung: bool = argument("freeze it instead", default=False)

    def inflict(self) -> str:
        """See Fault."""
        pid = _running(self.cluster.daemon("slurmctld"), "slurmctld")
        if self.hung:
            os.kill(pid, signal.SIGSTOP)
            return "slurmctld is frozen; jobs run on, commands wait 10 s and give up"
        _end(pid, signal.SIGTERM)
        return "slurmctld is stopped, its state is saved; jobs run on, no command gets an answer"

    def repair(self) -> str:
        """See Fault."""
        return _answering(self)


@dataclass(frozen=True)
class AccountingDown(Fault):
    """slurmdbd is killed: sacct fails, squeue and jobs go on, slurmctld keeps its records until it is back."""

    kind: ClassVar[str] = "accounting-down"
    way_back: ClassVar[str] = "slurmdbd starts again and gets the records it missed"

    def inflict(self) -> str:
        """See Fault."""
        _has_accounting(self)
        _end(_running(self.cluster.daemon("slurmdbd"), "slurmdbd"), signal.SIGKILL)
        return "slurmdbd is killed; sacct fails"

    def repair(self) -> str:
        """See Fault."""
        _has_accounting(self)
        if self.cluster.daemon("slurmdbd") is None:
            start_slurmdbd(self.cluster)
        return "slurmdbd answers"


def _has_accounting(fault: Fault) -> None:
    folder = fault.cluster.layout.folder
    if not fault.cluster.layout.accounting:
        way = f"stop it, then: python -m tests.cluster start {folder} --accounting"
        raise ClusterError(f"the cluster in {folder} has no accounting; {way}")


def _answering(fault: Fault) -> str:
    """Bring the controller back, whether it is frozen or gone."""
    pid = fault.cluster.daemon("slurmctld")
    if pid is None:
        fault.cluster.start_controller()
    else:
        os.kill(pid, signal.SIGCONT)
        fault.cluster.wait(lambda: " is UP" in fault.cluster.ask("scontrol", "ping"), "slurmctld")
    return "slurmctld answers"


def _running(pid: int | None, name: str) -> int:
    if pid is None:
        raise ClusterError(f"{name} doesn't run; --repair starts it")
    return pid


def _end(pid: int, number: signal.Signals) -> None:
    """Send the signal and wait until the daemon is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, number)
        signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a frozen one ends only then
        if not select.select([descriptor], [], [], _END_SECONDS)[0]:
            raise ClusterError(f"process {pid} is still there {_END_SECONDS:.0f} s after {number.name}")
    finally:
        os.close(descriptor)
