"""The executor plugin on a real Slurm: launch over nodes, failure, adoption, orphans, and the soft stop."""

from __future__ import annotations

import json
import signal

import pytest

from snakemake_executor_plugin_submitit.backend import SlurmBackend, comment_of
from snakemake_executor_plugin_submitit.journal import Attempt, Outcome
from snakemake_executor_plugin_submitit.slurm import Slurm

from ..snakemake_executor_plugin_submitit.drivers import DEADLINE_SECONDS, Checkout, interrupt, wait_until
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

GATED = """
rule a:
    output: "a.txt"
    log: "a.log"
    resources: nodes=2, tasks=2, runtime=60, mem_mb=500
    shell:
        "echo started >> runs.$RANK; until [ -e gate ]; do sleep 0.05; done; "
        "echo said $RANK; [ $RANK = 1 ] || cp gate {output}"
"""


def only_attempt(checkout: Checkout) -> Attempt:
    (attempt,) = checkout.attempts()
    return attempt


def test_direct_launch_over_two_nodes_gives_every_rank_its_place(checkout: Checkout) -> None:
    checkout.write("""
        rule train:
            output: "done.txt"
            log: "train.log"
            resources: nodes=2, tasks_per_node=2, gpus_per_node=4, slurm_partition="main", slurm_extra="--nice=5"
            shell:
                "echo $NODE_RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $(hostname) $CUDA_VISIBLE_DEVICES; "
                "touch {output}"
    """)
    checkout.run_well()
    attempt = only_attempt(checkout)
    said = [attempt.rank_log(rank).read_text().split() for rank in range(4)]
    expected = [[str(rank // 2), str(rank % 2), "4", "node1", f"node{rank // 2 + 1}", "0,1,2,3"] for rank in range(4)]
    assert said == expected
    assert attempt.end().exit_codes == {str(rank): 0 for rank in range(4)}
    assert checkout.lines("train.log") == [" ".join(said[0])]


def test_rank_that_fails_ends_the_job_and_is_named(checkout: Checkout) -> None:
    checkout.write("""
        rule train:
            output: "done.txt"
            resources: nodes=2, tasks=2
            shell: "if [ $RANK = 1 ]; then echo the reason; exit 7; fi; sleep 600"
    """)
    code, said = checkout.run()
    assert code != 0 and "exit code 7" in said and "the reason" in said and "rank 1" in said
    end = only_attempt(checkout).end()
    assert (end.outcome, end.rank, end.exit_code) == (Outcome.FAILED, 1, 7)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_job_of_a_driver_that_ended_is_adopted(checkout: Checkout, number: signal.Signals) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: checkout.lines("runs.0") and checkout.lines("runs.1"), "the start of the job")
    interrupt(first, number)
    second = checkout.start("--nolock")
    checkout.write("result", "gate")
    said, _ = second.communicate(timeout=DEADLINE_SECONDS)
    assert second.returncode == 0, said
    assert checkout.lines("runs.0") == checkout.lines("runs.1") == ["started"]
    assert checkout.lines("a.log") == ["said 0"]
    assert only_attempt(checkout).end().outcome is Outcome.SUCCESS


def test_changed_command_of_a_live_job_is_refused(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: checkout.lines("runs.0"), "the start of the job")
    interrupt(first, signal.SIGKILL)
    checkout.write(GATED.replace("echo said", "echo other"))
    code, said = checkout.run("--nolock")
    assert code != 0 and "scancel" in said
    assert slurm_cluster.job_states()[only_attempt(checkout).job().id] == "RUNNING"


def test_job_whose_submitter_died_before_recording_it_is_found(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(GATED)
    first = checkout.start()
    wait_until(lambda: checkout.lines("runs.0"), "the start of the job")
    interrupt(first, signal.SIGKILL)
    attempt = only_attempt(checkout)
    recorded = attempt.job()
    (attempt.folder / "job.json").unlink()
    assert SlurmBackend(Slurm(30.0)).find(attempt).id == recorded.id
    (attempt.folder / "job.json").unlink()
    checkout.write("result", "gate")
    checkout.run_well("--nolock")
    assert checkout.lines("runs.0") == ["started"]
    assert comment_of(attempt.intent().uid) in slurm_cluster.ask("scontrol", "show", "job", recorded.id)


def test_job_that_was_cancelled_by_hand_is_an_error(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(GATED)
    driver = checkout.start("--submitit-queue-poll-seconds", "1")
    wait_until(lambda: checkout.lines("runs.0"), "the start of the job")
    slurm_cluster.ask("scancel", only_attempt(checkout).job().id)
    said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    assert driver.returncode != 0 and "CANCELLED" in said
    assert only_attempt(checkout).end().outcome is Outcome.CANCELLED


def test_soft_stop_requeues_the_job_and_the_driver_waits(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write("""
        rule train:
            output: "done.txt"
            resources: nodes=2, tasks=2, runtime=60
            shell:
                '''
                echo $SUBMITIT_ATTEMPT >> attempts.$RANK
                if [ $SUBMITIT_ATTEMPT -lt 2 ]; then
                    trap 'sleep $RANK; echo saved >> saved.$RANK; exit 75' TERM
                    while true; do sleep 0.05; done
                fi
                touch {output}
                '''
    """)
    driver = checkout.start("--submitit-queue-poll-seconds", "1")
    wait_until(lambda: checkout.lines("attempts.0") and checkout.lines("attempts.1"), "the start of the job")
    job_id = only_attempt(checkout).job().id
    slurm_cluster.ask("scancel", "--signal=USR2", job_id)
    said, _ = driver.communicate(timeout=DEADLINE_SECONDS)
    assert driver.returncode == 0, said
    for rank in range(2):
        assert checkout.lines(f"attempts.{rank}") == ["1", "2"]
        assert checkout.lines(f"saved.{rank}") == ["saved"]
    start = json.loads((only_attempt(checkout).folder / "start-001.json").read_text())
    assert start["restart"] == 1 and only_attempt(checkout).job().id == job_id
