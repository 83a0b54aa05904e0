"""What Slurm's words mean, and what a rule's resources become."""

from __future__ import annotations

from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.backend import SlurmBackend
from snakemake_executor_plugin_submitit.journal import Attempt, Intent, JobFolder, JobKind
from snakemake_executor_plugin_submitit.local import LocalQueue, Machine
from snakemake_executor_plugin_submitit.processes import this_process
from snakemake_executor_plugin_submitit.resources import Request, read_request, slurm_parameters
from snakemake_executor_plugin_submitit.slurm import Phase, SlurmState, parse_sacct, parse_scontrol, parse_squeue, phase_of


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("RUNNING", Phase.LIVE),
        ("COMPLETING", Phase.LIVE),
        ("PENDING", Phase.LIVE),
        ("SUSPENDED", Phase.LIVE),
        ("COMPLETED", Phase.COMPLETED),
        ("CANCELLED by 0", Phase.CANCELLED),
        ("NODE_FAIL", Phase.UNSETTLED),
        ("PREEMPTED", Phase.UNSETTLED),
        ("TIMEOUT", Phase.FAILED),
        ("OUT_OF_MEMORY", Phase.FAILED),
        ("", Phase.UNKNOWN),
    ],
)
def test_phase_of_slurms_words(word: str, phase: Phase) -> None:
    assert phase_of(word) is phase


def test_squeue_lines_keep_reason_and_comment() -> None:
    states = parse_squeue("7|RUNNING|None|submitit:abc\n8_1|PENDING|Resources|with|bar\n\nnoise\n")
    assert (states["7"].phase, states["7"].detail, states["7"].comment) == (Phase.LIVE, "", "submitit:abc")
    assert (states["8_1"].detail, states["8_1"].comment) == ("Resources", "with|bar")


def test_sacct_and_scontrol_agree_on_a_failed_job() -> None:
    sacct = parse_sacct("7|FAILED|9:0\n8|CANCELLED by 1000|0:15\n")
    scontrol = parse_scontrol("JobId=7 Comment=submitit:x JobState=FAILED Reason=NonZeroExitCode ExitCode=9:0")
    assert sacct["7"].phase is scontrol.phase is Phase.FAILED
    assert sacct["8"].phase is Phase.CANCELLED and scontrol.comment == "submitit:x"


def test_resources_become_sbatch_parameters() -> None:
    resources = {
        "nodes": 2,
        "tasks": 8,
        "mem_mb": 4000,
        "runtime": 90,
        "gpu": 4,
        "slurm_partition": "gpu",
        "constraint": "h100",
        "slurm_reservation": "us",
        "slurm_extra": "--licenses=x:1 --overcommit",
        "slurm_setup": "module load a; export B='1;2'",
    }
    request = read_request("train", resources, threads=6)
    assert request == Request(2, 4, 6, 4000, 90, 4)
    parameters = slurm_parameters("train", request, resources, "submitit:uid", 120)
    expected = {
        "nodes": 2,
        "ntasks_per_node": 4,
        "cpus_per_task": 6,
        "mem": "4000M",
        "time": 90,
        "gpus_per_node": 4,
        "partition": "gpu",
        "constraint": "h100",
        "comment": "submitit:uid",
        "wckey": None,
        "setup": ["module load a; export B='1;2'"],
    }
    assert expected.items() <= parameters.items()
    assert parameters["additional_parameters"] == {"requeue": True, "reservation": "us", "licenses": "x:1", "overcommit": True}


@pytest.mark.parametrize("resources", [{"nodes": 2, "tasks": 3}, {"tasks": "many"}, {"runtime": -1}])
def test_resources_that_make_no_sense_are_refused_by_rule_and_name(resources: dict[str, object]) -> None:
    with pytest.raises(WorkflowError, match="rule train"):
        read_request("train", resources, threads=1)


def test_queue_gives_out_cores_memory_and_gpus_once() -> None:
    queue = LocalQueue(Machine(cores=4, mem_mb=1000, devices=("0", "1")))
    half = Request(cpus_per_task=2, mem_mb=400, gpus_per_node=1)
    assert [queue.take(uid, half) for uid in "ab"] == [("0",), ("1",)]
    assert not queue.fits(Request())
    queue.give_back("a")
    assert queue.fits(half) and not queue.fits(Request(mem_mb=700)) and queue.take("c", half) == ("0",)


def test_queue_lets_a_job_larger_than_the_machine_run_alone() -> None:
    queue = LocalQueue(Machine(cores=4, mem_mb=1000))
    giant = Request(tasks_per_node=8)
    assert queue.fits(giant) and "cores=8 of 4" in queue.excess(giant)
    queue.take("other", Request())
    assert not queue.fits(giant)


class HeldJobs:
    """A Slurm in which jobs are held again and again."""

    poll_seconds = 0.0

    def __init__(self, detail: str, comment: str = "") -> None:
        self.detail, self.comment, self.released = detail, comment, 0

    def due(self, interval: float) -> bool:
        return True

    def states(self, jobs: object) -> dict[str, SlurmState]:
        return {"7": SlurmState(Phase.LIVE, "PENDING", self.detail, self.comment)}

    def release(self, job_id: str) -> bool:
        self.released += 1
        return True


def test_job_that_a_node_could_not_launch_is_released_a_few_times_and_then_left_to_a_person(tmp_path: Path) -> None:
    slurm, said = HeldJobs("launch failed requeued held"), list[str]()
    backend = SlurmBackend(slurm, warn=said.append)  # type: ignore[arg-type]
    for _ in range(9):
        backend.refresh({"7": Attempt(tmp_path)})
    assert slurm.released == 5 and len(said) == 6
    assert "released it" in said[0] and "scontrol release 7" in said[-1]


def test_held_job_that_only_has_the_id_is_left_alone(tmp_path: Path) -> None:
    intent = Intent("key", "ours", "spec", JobKind.SLURM, "rule", "command", 1, this_process(), "me")
    attempt = JobFolder(tmp_path).claim(1, intent)
    slurm = HeldJobs("launch failed requeued held", comment="submitit:another")
    SlurmBackend(slurm).refresh({"7": attempt})  # type: ignore[arg-type, dict-item]
    assert slurm.released == 0


def test_job_that_waits_or_that_somebody_holds_is_left_alone(tmp_path: Path) -> None:
    for reason in ("Resources", "JobHeldUser"):
        slurm = HeldJobs(reason)
        SlurmBackend(slurm).refresh({"7": Attempt(tmp_path)})  # type: ignore[arg-type]
        assert slurm.released == 0
