"""Others who start our jobs again: never twice at once, and what they do is left to them."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.journal import Outcome

from ..snakemake_executor_plugin_submitit.drivers import DEADLINE_SECONDS, MARK, Checkout, kill, wait_until
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

WORK = """
rule a:
    output: "a.txt"
    resources: mem_mb=200
    shell:
        '''
        echo start >> runs
        n=$(wc -l < runs); sh mark.sh $n $n
        [ $n -gt 1 ] || FIRST
        until [ -e gate ]; do sleep 0.05; done
        touch {output}
        '''
"""


def test_job_that_others_requeue_after_it_was_replaced_runs_nothing(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(MARK, "mark.sh")
    checkout.write(WORK.replace("FIRST", "kill -9 $$"))
    driver = checkout.start("--submitit-queue-poll-seconds", "1")
    try:
        wait_until(lambda: len(checkout.lines("runs")) == 2, "the second attempt")
        first = checkout.attempts()[0].job().id
        slurm_cluster.order("scontrol", "requeue", first)
        wait_until(lambda: slurm_cluster.job_states()[first] == "COMPLETED", "the end of the requeued job")
        checkout.write("", "gate")
        said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    finally:
        kill(driver)
    assert driver.returncode == 0, said
    assert checkout.lines("runs") == ["start"] * 2
    log = next((checkout.attempts()[0].folder / "submitit").glob("*_log.out")).read_text()
    assert "not started, the attempt has ended" in log


def test_copy_of_a_job_runs_nothing(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(MARK, "mark.sh")
    checkout.write(WORK.replace("FIRST", "true"))
    driver = checkout.start()
    try:
        wait_until(lambda: checkout.lines("runs"), "the start of the job")
        (attempt,) = checkout.attempts()
        script = next((attempt.folder / "submitit").glob("*.sh"))
        pickles = {path.name for path in script.parent.glob("*.pkl")}
        copy = slurm_cluster.order("sbatch", "--parsable", str(script)).strip()
        (script.parent / f"{copy}_submitted.pkl").write_bytes((script.parent / pickles.pop()).read_bytes())
        wait_until(lambda: slurm_cluster.job_states()[copy] in ("COMPLETED", "FAILED"), "the end of the copy")
        checkout.write("", "gate")
        said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    finally:
        kill(driver)
    assert driver.returncode == 0, said
    assert checkout.lines("runs") == ["start"]


def test_failure_is_left_to_a_requeuer_that_the_site_has(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(MARK, "mark.sh")
    checkout.write(WORK.replace("FIRST", "exit 7"))
    checkout.write("", "gate")
    driver = checkout.start("--submitit-queue-poll-seconds", "1", "--submitit-requeuer-seconds", "120")
    try:
        wait_until(lambda: checkout.attempts() and checkout.attempts()[0].ranks(), "the failure")
        job = checkout.attempts()[0].job().id
        wait_until(lambda: slurm_cluster.job_states()[job] == "FAILED", "Slurm's word for it")
        slurm_cluster.order("scontrol", "requeue", job)  # the site's epilog
        said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    finally:
        kill(driver)
    assert driver.returncode == 0, said
    (attempt,) = checkout.attempts()
    assert attempt.end().outcome is Outcome.SUCCESS
    assert [start.revived for start in attempt.starts()] == [False, True]
