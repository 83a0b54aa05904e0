"""The file system of the journal is full for a while: nothing ends but what had to write, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..snakemake_executor_plugin_submitit.drivers import DEADLINE_SECONDS, Checkout, kill, wait_until
from .faults import FullDisk
from .fixtures import forget_jobs
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

TWO = """
rule all:
    input: "{gates}/b.txt"

rule a:
    output: "{gates}/a.txt"
    shell: "echo a >> {gates}/runs; touch {gates}/started; until [ -e {gates}/gate ]; do sleep 0.05; done; touch {{output}}"

rule b:
    input: "{gates}/a.txt"
    output: "{gates}/b.txt"
    shell: "echo b >> {gates}/runs; touch {{output}}"
"""


@pytest.fixture
def disk(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[FullDisk]:
    """A small file system of its own."""
    disk = FullDisk(slurm_cluster, tmp_path / "disk", megabytes=16)
    disk.inflict()
    yield disk
    forget_jobs(slurm_cluster)
    disk.repair()


def test_driver_and_jobs_outlive_a_full_disk(disk: FullDisk, tmp_path: Path) -> None:
    gates = tmp_path / "elsewhere"
    gates.mkdir()
    checkout = Checkout(disk.path, cluster="slurm")
    checkout.write(TWO.format(gates=gates))
    driver = checkout.start("--submitit-queue-poll-seconds", "2")
    try:
        wait_until((gates / "started").exists, "the start of the first job")
        disk.inflict()
        (gates / "gate").touch()
        unwritten = disk.path / ".submitit"
        wait_until(lambda: list(unwritten.glob("*/attempts/001/.unwritten")), "a record that cannot be written")
        assert driver.poll() is None
        disk.repair()
        said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    finally:
        kill(driver)
    assert driver.returncode == 0, said
    assert (gates / "runs").read_text().split() == ["a", "b"]
