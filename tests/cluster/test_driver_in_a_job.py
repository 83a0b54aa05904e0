"""The driver as a Slurm job of its own, and started by a clock: as docs/operations.md says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from ..snakemake_executor_plugin_submitit.drivers import DEADLINE_SECONDS, SOURCE_ROOT, Checkout, wait_until
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

GATED = """
rule all:
    input: "b.txt"

rule a:
    output: "a.txt"
    resources: mem_mb=200
    shell: "echo a >> runs; until [ -e gate ]; do sleep 0.05; done; touch {output}"

rule b:
    input: "a.txt"
    output: "b.txt"
    resources: mem_mb=200
    shell: "echo b >> runs; touch {output}"
"""
DRIVER = f"{sys.executable} -m snakemake --executor submitit --submitit-cluster slurm --jobs 9 --nolock --rerun-incomplete"


def test_driver_that_is_a_job_is_requeued_and_adopts_its_jobs(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(GATED)
    options = ["--mem=500M", "--requeue", "--open-mode=append", f"--output={checkout.folder}/driver.log"]
    wrap = f"--wrap=PYTHONPATH={SOURCE_ROOT} {DRIVER}"
    driver = slurm_cluster.order("sbatch", "--parsable", f"--chdir={checkout.folder}", *options, wrap).strip()
    wait_until(lambda: checkout.lines("runs"), "the start of the driver's first job")
    slurm_cluster.order("scontrol", "requeue", driver)
    wait_until(lambda: "Adopted" in "".join(checkout.lines("driver.log")), "the adoption by the driver's next start")
    checkout.write("", "gate")
    wait_until(lambda: slurm_cluster.job_states().get(driver) == "COMPLETED", "the end of the driver")
    assert checkout.lines("runs") == ["a", "b"]


def test_clock_starts_one_driver_at_a_time_and_what_it_finds_is_adopted(checkout: Checkout) -> None:
    checkout.write(GATED)
    line = (
        f"cd {shlex.quote(str(checkout.folder))} && flock -n .driver.lock {DRIVER} --submitit-given-up leave >> driver.log 2>&1"
    )
    environment = {"PYTHONPATH": str(SOURCE_ROOT)}

    def tick() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", line], env={**os.environ, **environment}, start_new_session=True)

    first = tick()
    wait_until(lambda: checkout.lines("runs"), "the start of the first job")
    assert tick().wait(DEADLINE_SECONDS) == 1, "a second driver started beside the first"
    subprocess.run(["pkill", "-KILL", "-s", str(first.pid)], check=False)  # the login node goes down
    first.wait()
    ticks = [tick()]

    def adopted() -> bool:
        if ticks[-1].poll() == 1:  # the dying driver still had the lock: the clock ticks again
            ticks.append(tick())
        return "Adopted" in "".join(checkout.lines("driver.log"))

    wait_until(adopted, "the adoption")
    checkout.write("", "gate")
    assert ticks[-1].wait(DEADLINE_SECONDS) == 0
    assert checkout.lines("runs") == ["a", "b"]
