"""Ways to break a cluster, by the name that the command line gives them."""

from .commands import Failing, Slow
from .daemons import AccountingDown, ControllerKill, ControllerStop, NodeDeath
from .disk import FullDisk
from .fault import Fault, inflicted
from .jobs import Cancel, Preempt, Requeue, Walltime
from .ranks import Hang, KillRank, KillServer, OutOfMemory

KINDS: dict[str, type[Fault]] = {
    fault.kind: fault
    for fault in (
        NodeDeath,
        ControllerKill,
        ControllerStop,
        AccountingDown,
        Preempt,
        Walltime,
        Requeue,
        Cancel,
        Slow,
        Failing,
        Hang,
        KillRank,
        KillServer,
        OutOfMemory,
        FullDisk,
    )
}

__all__ = [
    "KINDS",
    "AccountingDown",
    "Cancel",
    "ControllerKill",
    "ControllerStop",
    "Failing",
    "Fault",
    "FullDisk",
    "Hang",
    "KillRank",
    "KillServer",
    "NodeDeath",
    "OutOfMemory",
    "Preempt",
    "Requeue",
    "Slow",
    "Walltime",
    "inflicted",
]
