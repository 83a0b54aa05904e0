"""Clusters for the length of a test, and what they are asked there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .slurm import SlurmCluster, missing_requirements, running_cluster


@contextlib.contextmanager
def temporary_cluster(
    nodes: tuple[str, ...] = ("node1", "node2"), accounting: bool = False, memory_limits: bool = False
) -> Iterator[SlurmCluster]:
    """Run a cluster in a folder of its own, which goes too; skip the test where none can run."""
    if problem := missing_requirements(accounting):
        pytest.skip(f"no Slurm to test with: {problem}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # Slurm's sockets need a short path
    try:
        with running_cluster(folder, nodes, accounting, memory_limits) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def as_login_node(cluster: SlurmCluster) -> Iterator[None]:
    """Have this process and the drivers it starts talk to the cluster for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield
