"""Jobs of stages against the recorded cluster: each fault is found, named by its key, and has a way out."""

import pytest

from athanor.cluster import requests
from athanor.cluster.findings import Finding, Level, has_error
from athanor.cluster.jobs import StageJob, batch_script, merge
from athanor.cluster.requests import check_job

from .recorded import CONFIG, NO_ACCOUNTING, REFUSED, inventory, needs_srun, slurm, stage_job

pytestmark = needs_srun

FITTING = {"slurm_partition": "gpu", "gpus_per_node": 8, "nodes": 2, "tasks": 16, "cpus_per_task": 12, "runtime": 1440}


def findings(job: StageJob, ranks_per_node: int = 8) -> list[Finding]:
    return check_job(job, inventory(), ranks_per_node, slurm())


def test_job_that_fits_is_taken_and_says_when_it_would_start() -> None:
    (found,) = findings(stage_job(**FITTING, mem_mb=900_000, slurm_account="mygroup", qos="long"))
    assert found.level is Level.OK
    assert found.found.startswith("pretrain: sbatch takes the job, which would start at 2026-11-26T15:19:51")


FAULTS = {
    "no such partition": (
        {"slurm_partition": "gpuu"},
        "error    pretrain: partition 'gpuu' does not exist here; "
        "set resources.pretrain.partition to one of cpu, gpu, debug, closed, broken",
    ),
    "closed partition": (
        {"slurm_partition": "closed"},
        "error    pretrain: partition closed is down; set resources.pretrain.partition to one of cpu, gpu, debug, broken",
    ),
    "walltime": (
        {"slurm_partition": "cpu", "runtime": 300},
        "error    pretrain: a walltime of 300 minutes is over the 240 that partition cpu allows; "
        "set resources.pretrain.runtime to at most 240min; long stages are requeued",
    ),
    "GPUs": (
        {"slurm_partition": "gpu", "gpus_per_node": 9},
        "error    pretrain: asks for 9 GPUs a node, those of partition gpu have 8; "
        "set resources.pretrain.gpus_per_node to at most 8",
    ),
    "cores": (
        {"slurm_partition": "gpu", "tasks": 8, "cpus_per_task": 16},
        "error    pretrain: asks for 128 cores a node, those of partition gpu have 96; "
        "set resources.pretrain.cpus_per_task to at most 12",
    ),
    "memory": (
        {"slurm_partition": "cpu", "mem_mb": 1_000_000},
        "error    pretrain: asks for 1000000 MB a node, those of partition cpu have 524288; "
        "set resources.pretrain.memory to at most 524GB",
    ),
    "nodes": (
        {**FITTING, "nodes": 5, "tasks": 40},
        "error    pretrain: asks for 5 nodes, partition gpu has 4 that are large enough; "
        "set resources.pretrain.partition to another, or train on fewer ranks",
    ),
    "ranks share GPUs": (
        {"slurm_partition": "gpu", "tasks": 8, "gpus_per_node": 4},
        "error    pretrain: 8 ranks a node share 4 GPUs; "
        "set ranks_per_node to 4, or resources.pretrain.gpus_per_node to 8: NCCL needs one a rank",
    ),
    "account": (
        {"slurm_account": "yours"},
        "error    pretrain: account 'yours' is none of yours; set resources.pretrain.account to mygroup",
    ),
    "account of another partition": (
        {"slurm_account": "special"},
        "error    pretrain: account 'special' is none of yours; set resources.pretrain.account to mygroup",
    ),
    "account and qos": (
        {"slurm_account": "yours", "qos": "urgent"},
        "error    pretrain: account 'yours' is none of yours; set resources.pretrain.account to mygroup",
        "error    pretrain: qos 'urgent' is not offered to your accounts; set resources.pretrain.qos to one of long, normal",
    ),
    "qos": (
        {"slurm_account": "mygroup", "qos": "urgent"},
        "error    pretrain: qos 'urgent' is not offered to account mygroup; "
        "set resources.pretrain.qos to one of long, normal",
    ),
    "ranks and nodes": (
        {"nodes": 3, "tasks": 20},
        "error    pretrain: rule pretrain: tasks=20 is not nodes=3 times tasks_per_node=6; use tasks=18 or leave tasks out; "
        "change ranks_per_node, or pretrain.parallel.ranks of the recipe",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_one_error_with_its_key_and_way_out(fault: str) -> None:
    resources, *said = FAULTS[fault]
    assert [str(found) for found in findings(stage_job(**resources))] == said


def test_all_faults_of_one_job_come_together() -> None:
    faults = {"slurm_partition": "debug", "runtime": 60, "gpus_per_node": 8, "slurm_account": "yours"}
    assert [found.level for found in findings(stage_job(**faults))] == [Level.ERROR] * 3


@pytest.mark.parametrize(
    ("asked", "ranks_per_node", "said"),
    [
        ({"gpus_per_node": 8, "tasks": 2}, 8, "2 ranks leave 6 of 8 GPUs of every node idle"),
        ({"gpus_per_node": 8, "tasks": 1}, 8, "1 ranks leave 7 of 8 GPUs of every node idle"),
        ({"tasks": 2}, 8, "asks for no GPU, though nodes of partition gpu have 8"),
        ({"gpus_per_node": 4, "tasks": 4}, 16, "ranks_per_node is 16, but nodes of partition gpu have 8 GPUs"),
    ],
)
def test_ranks_and_gpus_that_do_not_match_are_a_warning(asked: dict[str, object], ranks_per_node: int, said: str) -> None:
    warned, taken = findings(stage_job(slurm_partition="gpu", **asked), ranks_per_node)
    assert (warned.level, warned.found, taken.level) == (Level.WARNING, f"pretrain: {said}", Level.OK)


def test_stage_without_training_may_leave_gpus_alone() -> None:
    (taken,) = findings(stage_job("fetch", slurm_partition="gpu"))
    assert taken.level is Level.OK


def test_partition_whose_nodes_are_down_is_a_warning_since_jobs_wait() -> None:
    warned, _ = findings(stage_job(slurm_partition="broken"))
    assert (warned.level, warned.found) == (Level.WARNING, "pretrain: all 1 nodes of partition broken are down or drained now")


def test_account_is_only_a_warning_where_associations_are_not_enforced() -> None:
    free = inventory(slurm(CONFIG.replace("associations,limits,qos", "none")))
    found = check_job(stage_job(slurm_account="yours", qos="urgent"), free, 8, slurm())
    assert [f.level for f in found] == [Level.WARNING, Level.WARNING, Level.OK]


def test_account_is_not_checked_where_there_is_no_accounting() -> None:
    assert not has_error(check_job(stage_job(slurm_account="yours"), inventory(slurm(NO_ACCOUNTING)), 8, slurm()))


def test_refusal_shows_sbatchs_words_and_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_AGAIN_SECONDS", 0.0)
    (found,) = check_job(stage_job(slurm_partition="cpu", runtime=30, mem_mb=2000), inventory(), 8, slurm(sbatch=REFUSED))
    assert found.found == (
        "pretrain: sbatch refuses the job: allocation failure: Invalid account or account/partition combination specified"
    )
    assert found.advice == (
        "mend resources.pretrain; it was asked for --cpus-per-task=1 --mem=2000M --nodes=1 --ntasks-per-node=1 --partition=cpu "
        "--time=30"
    )


def test_stages_that_ask_for_the_same_are_one_job() -> None:
    fetch, export, other = stage_job("fetch"), stage_job("export"), stage_job("evaluate", python="/other/python")
    one, two = merge([fetch, export, other])
    assert (one.name, two.name) == ("fetch, export", "evaluate")
    assert merge([fetch, *[stage_job(str(n)) for n in range(7)]])[0].name == "fetch and 7 more stages"


def test_batch_script_is_the_executors_with_another_command(tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = stage_job(slurm_partition="gpu", slurm_setup="module load cuda; export A='b c'", slurm_extra="--licenses=x:1")
    lines = batch_script(job, tmp_path, "probe", "look around").splitlines()
    assert {"#SBATCH --job-name=probe", "#SBATCH --partition=gpu", "#SBATCH --licenses=x:1", "#SBATCH --requeue"} <= set(lines)
    assert "module load cuda; export A='b c'" in lines
    assert lines[-1].startswith("srun ") and lines[-1].endswith(" --kill-on-bad-exit=1 look around")
