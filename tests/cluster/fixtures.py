"""Clusters for the length of a test, and what tests have them do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..snakemake_executor_plugin_submitit.drivers import wait_until
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


def forget_jobs(cluster: SlurmCluster) -> None:
    """End all jobs."""
    cluster.ask("scancel", "--quiet", "--user=root")
    wait_until(lambda: not cluster.order("squeue", "-h").strip(), "the end of all jobs")


def submit(cluster: SlurmCluster, script: str, *options: str) -> str:
    """Submit a shell script; return the job's id."""
    usual = ["--parsable", "--output=/dev/null", "--chdir=/", "--time=30"]
    return cluster.order("sbatch", *usual, *options, f"--wrap={script}").strip()


def run(cluster: SlurmCluster, script: str = "sleep 600", *options: str) -> str:
    """Submit a shell script and wait until it runs."""
    job = submit(cluster, script, *options)
    wait_for_state(cluster, job, "RUNNING")
    return job


def wait_for_state(cluster: SlurmCluster, job: str, *states: str) -> None:
    """Wait until the job is in one of the states."""
    wait_until(lambda: cluster.job_states().get(job) in states, f"job {job} {' or '.join(states)}")


def shown(cluster: SlurmCluster, job: str, name: str) -> str:
    """Return one value of `scontrol show job`."""
    found = re.search(rf"\b{name}=(\S+)", cluster.ask("scontrol", "show", "job", job))
    return found.group(1) if found else ""


def as_driver(cluster: SlurmCluster, *command: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as drivers do, through the cluster's wrappers."""
    environment = {**os.environ, **cluster.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
