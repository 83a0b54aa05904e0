"""Faults of one rank of a job of the executor, by what becomes of its processes and what its launcher says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..snakemake_executor_plugin_submitit.drivers import Checkout, kill, wait_until
from . import processes
from .configuration import ClusterError
from .faults import Hang, KillRank, KillServer, OutOfMemory, inflicted
from .fixtures import as_login_node, submit, wait_for_state
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@dataclass(frozen=True)
class Training:
    """A job of the executor with two ranks, each of which takes a megabyte and marks it, again and again."""

    checkout: Checkout
    job: str

    def marks(self, rank: int) -> int:
        return len("".join(self.checkout.lines(f"marks.{rank}")))

    def wait_for_marks(self, rank: int) -> None:
        before = self.marks(rank)
        wait_until(lambda: self.marks(rank) > before + 2, f"marks of rank {rank}")

    def wait_for_end(self, rank: int) -> int:
        (attempt,) = self.checkout.attempts()
        wait_until(lambda: rank in attempt.ranks(), f"the end of rank {rank}")
        return attempt.ranks()[rank].exit_code

    def log(self, rank: int) -> str:
        (attempt,) = self.checkout.attempts()
        return attempt.rank_log(rank).read_text()


WORKER = """
    import os, time
    held = []
    while True:
        held.append(bytes(1 << 20))
        with open("marks." + os.environ["RANK"], "a") as marks:
            marks.write(".")
        time.sleep(0.02)
"""


@pytest.fixture
def training(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Training]:
    """Such a job, whose ranks run."""
    checkout = Checkout(tmp_path, cluster="slurm")
    checkout.write(WORKER, "worker.py")
    rule = 'rule train:\n    output: "done"\n    resources: nodes=2, tasks=2, runtime=60, mem_mb=4000\n'
    checkout.write(f'{rule}    shell: "{sys.executable} worker.py"\n')
    with as_login_node(cluster):
        driver = checkout.start("--submitit-queue-poll-seconds", "1")
    try:
        wait_until(lambda: checkout.lines("marks.0") and checkout.lines("marks.1"), "the start of both ranks")
        (attempt,) = checkout.attempts()
        yield Training(checkout, attempt.job().id)
    finally:
        kill(driver)


def test_hanging_rank_stands_still_and_nothing_else_does(cluster: SlurmCluster, training: Training) -> None:
    with inflicted(Hang(cluster, training.job, 1)):
        wait_until(lambda: commands_states(cluster, training.job) == {0: {"S"}, 1: {"T"}}, "the stop of rank 1")
        before = training.marks(1)
        training.wait_for_marks(0)
        assert training.marks(1) == before
        assert "T" not in launcher_states(cluster, training.job)
        assert cluster.job_states()[training.job] == "RUNNING"
    training.wait_for_marks(1)
    with pytest.raises(ClusterError, match=r"no rank 2; it has 0, 1"):
        Hang(cluster, training.job, 2).inflict()


def test_killed_rank_is_known_by_its_launcher(cluster: SlurmCluster, training: Training) -> None:
    KillRank(cluster, training.job, 1).inflict()
    assert training.wait_for_end(1) == 137


def test_killed_server_ends_and_its_rank_does_not(cluster: SlurmCluster) -> None:
    job = submit(cluster, "export RANK=0; setsid sleep 612 & setsid sleep 600 & wait")
    wait_until(lambda: len(processes.commands(cluster.layout, job).get(0, ())) == 2, "the start of both")
    told = KillServer(cluster, job, "sleep 612").inflict()
    assert told.endswith("sleep 612")
    wait_until(lambda: "sleep 612" not in commands_words(cluster, job), "the end of the server")
    assert "sleep 600" in commands_words(cluster, job) and cluster.job_states()[job] == "RUNNING"
    with pytest.raises(ClusterError, match="runs no server with sleep 612"):
        KillServer(cluster, job, "sleep 612").inflict()


def test_task_of_an_array_is_found_by_the_id_that_squeue_shows(cluster: SlurmCluster) -> None:
    array = submit(cluster, "RANK=0 setsid sleep 600", "--array=0-1")
    wait_until(lambda: all(processes.commands(cluster.layout, f"{array}_{task}") for task in (0, 1)), "the start of both tasks")
    KillRank(cluster, f"{array}_1", 0).inflict()
    wait_for_state(cluster, f"{array}_1", "FAILED")
    assert cluster.job_states()[f"{array}_0"] == "RUNNING"
    assert Hang(cluster, f"{array}_1", 0).repair().endswith("has ended")


def test_rank_out_of_memory_fails_at_its_next_request(cluster: SlurmCluster, training: Training) -> None:
    OutOfMemory(cluster, training.job, 0).inflict()
    assert training.wait_for_end(0) == 1
    assert "MemoryError" in training.log(0)


def commands_words(cluster: SlurmCluster, job: str) -> str:
    """The command lines of a job's commands."""
    groups = (group for ranks in processes.commands(cluster.layout, job).values() for group in ranks)
    return "\n".join(Path(f"/proc/{group}/cmdline").read_text().replace("\0", " ") for group in groups)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def commands_states(cluster: SlurmCluster, job: str) -> dict[int, set[str]]:
    """The state letters of the ranks' commands, running and sleeping being the same."""
    ranks = processes.commands(cluster.layout, job)
    return {rank: {state_of(pid).replace("R", "S") for pid in groups} for rank, groups in ranks.items()}


def launcher_states(cluster: SlurmCluster, job: str) -> list[str]:
    found = [
        state_of(process.pid)
        for process in processes.all_processes()
        if process.environment.get("SLURM_JOB_ID") == job and "RANK" not in process.environment
    ]
    assert len(found) >= 3  # the script, srun and a launcher a rank
    return found
