"""What a fault is: a dataclass whose fields are its arguments, with a way in and, where one makes sense, a way back."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..configuration import ClusterError
from ..slurm import Job, SlurmCluster

SHOWN_JOBS = 12  # of those that an error lists


@dataclass(frozen=True)
class Fault(ABC):
    """One way to break a cluster. A subclass's docstring is its help, the first line the one in the table."""

    kind: ClassVar[str]
    """Its name on the command line."""
    way_back: ClassVar[str] = ""
    """What `repair` brings about; empty when there is nothing to repair."""

    cluster: SlurmCluster

    @abstractmethod
    def inflict(self) -> str:
        """Break it; return in one line what happened. Raises ClusterError when there is nothing to break."""

    def repair(self) -> str:
        """Undo it, any number of times; return in one line what is so now."""
        raise ClusterError(f"{self.kind}: nothing to repair, it ends by itself")

    @classmethod
    def arguments(cls) -> list[dataclasses.Field[object]]:
        """List the fields that a caller gives besides the cluster."""
        return [field for field in dataclasses.fields(cls) if field.name != "cluster"]


def argument(meaning: str, default: object = dataclasses.MISSING, positional: bool = False) -> Any:
    """Declare an argument of a fault: an option where it has a default, unless it is positional; False makes a switch."""
    metadata = {"meaning": meaning, "positional": positional or default is dataclasses.MISSING}
    return dataclasses.field(default=default, metadata=metadata)


@contextlib.contextmanager
def inflicted(fault: Fault) -> Iterator[Fault]:
    """Break something for the length of the block."""
    fault.inflict()
    try:
        yield fault
    finally:
        if fault.way_back:
            fault.repair()


def known_node(cluster: SlurmCluster, node: str) -> str:
    """Return the node's name; raise ClusterError when the cluster has no such node."""
    if node not in cluster.layout.nodes:
        raise ClusterError(f"there is no node {node} in {cluster.layout.folder}; it has {', '.join(cluster.layout.nodes)}")
    return node


def known_job(cluster: SlurmCluster, job_id: str, *states: str) -> Job:
    """Return the job; raise ClusterError when Slurm doesn't know it, or it is in none of the `states` (if any are given)."""
    jobs = cluster.jobs()
    job = next((job for job in jobs if job_id in (job.id, job.own_id)), None)
    if job is None:
        raise ClusterError(f"there is no job {job_id} in {cluster.layout.folder}; Slurm knows {_list(jobs)}")
    if states and job.state not in states:
        fit = [job for job in jobs if job.state in states]
        raise ClusterError(f"job {job_id} is {job.state}, not {' or '.join(states)}; those that are: {_list(fit)}")
    return job


def _list(jobs: list[Job]) -> str:
    shown = [f"{job.id} ({job.state} in {job.partition})" for job in jobs[-SHOWN_JOBS:]]
    return ", ".join(shown) or "none"
