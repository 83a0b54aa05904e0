"""The test clusters as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..snakemake_executor_plugin_submitit.drivers import Checkout
from .fixtures import as_login_node, forget_jobs, temporary_cluster
from .slurm import SlurmCluster


@pytest.fixture(scope="package")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A real Slurm with two nodes, in the environment of the test process."""
    with temporary_cluster() as cluster, as_login_node(cluster):
        yield cluster


@pytest.fixture
def checkout(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Checkout]:
    """An empty workflow folder whose jobs are cancelled when the test is over."""
    yield Checkout(tmp_path, cluster="slurm")
    forget_jobs(slurm_cluster)


@pytest.fixture(scope="package")
def accounting_cluster() -> Iterator[SlurmCluster]:
    """One with slurmdbd and MariaDB, for tests that need sacct; not in the environment: see `as_login_node`."""
    with temporary_cluster(accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def breakable() -> Iterator[SlurmCluster]:
    """One that tests break and repair, with memory limits; use `cluster`."""
    with temporary_cluster(memory_limits=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(breakable: SlurmCluster) -> Iterator[SlurmCluster]:
    """The breakable one, without jobs when a test is over."""
    yield breakable
    forget_jobs(breakable)
