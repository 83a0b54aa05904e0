"""The test cluster as a fixture."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .slurm import SlurmCluster, missing_requirements, running_cluster


@pytest.fixture(scope="package")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A real Slurm with two nodes, in the environment of the test process."""
    problem = missing_requirements()
    if problem:
        pytest.skip(f"no Slurm to test with: {problem}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    try:
        with running_cluster(folder) as cluster:
            os.environ.update(cluster.environment)
            yield cluster
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
