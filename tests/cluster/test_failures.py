"""What of a journal is a failure of a machine, and in how many node-hours."""

from pathlib import Path

import pytest

from athanor.cluster.failures import OF_MACHINES, machine_failures
from athanor.cluster.policy import ROWS
from athanor.tracking.spool import Status
from snakemake_executor_plugin_submitit.causes import TABLE
from tests.cluster.attempts import Attempts, Start

PAIR = ("node1", "node2")
CAUSES = sorted({row.cause for row in (*ROWS, *TABLE)})


@pytest.mark.parametrize("cause", CAUSES)
def test_attempt_counts_where_a_machine_ended_it(tmp_path: Path, cause: str) -> None:
    Attempts(tmp_path).add(Start(PAIR, hours=3.0), cause=cause)
    failures, hours = machine_failures([tmp_path])
    assert (failures, hours) == (cause in OF_MACHINES, pytest.approx(6.0))


def test_causes_of_machines_are_causes_that_the_tables_know() -> None:
    assert set(CAUSES) >= OF_MACHINES


def test_start_without_a_last_word_counts_where_the_same_job_was_started_again(tmp_path: Path) -> None:
    """Slurm requeues a job whose node has died, and nobody judges that."""
    died, preempted = Start(PAIR, 1.0), Start(PAIR, 2.0, Status.STOPPED)
    Attempts(tmp_path).add(died, preempted, died, Start(PAIR, 0.5))
    assert machine_failures([tmp_path]) == (2, pytest.approx(9.0))


def test_attempt_that_runs_now_and_one_that_follows_another_are_none(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.add(Start(PAIR, 1.0), cause="lost")
    attempts.add(Start(("node3",), 1.0))
    assert machine_failures([tmp_path]) == (0, pytest.approx(3.0))


def test_ranks_of_one_node_are_one_node(tmp_path: Path) -> None:
    Attempts(tmp_path).add(Start(("node1", "node1", "node2"), 1.0))
    assert machine_failures([tmp_path]) == (0, pytest.approx(2.0))


def test_failures_of_several_artifacts_add_up_and_an_empty_folder_has_none(tmp_path: Path) -> None:
    for name, cause in (("first", "GPU fault"), ("second", "crashed")):
        (tmp_path / name).mkdir()
        Attempts(tmp_path / name).add(Start(PAIR, 1.0), cause=cause)
    assert machine_failures([tmp_path / "first", tmp_path / "second", tmp_path / "none"]) == (2, pytest.approx(4.0))


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.add(Start(PAIR, 1.0), cause="node failed")
    damaged = attempts.add(Start(PAIR, 1.0), cause="node failed")
    (damaged / "judgement.json").write_text("{")
    (tmp_path / "tracking" / "002.jsonl").write_text("\0\0\n")
    assert machine_failures([tmp_path]) == (1, pytest.approx(2.0))


def test_end_of_a_long_spool_is_found_without_reading_it_whole(tmp_path: Path) -> None:
    Attempts(tmp_path).add(Start(PAIR, 2.0, Status.STOPPED), Start(PAIR, 1.0))
    spool = tmp_path / "tracking" / "001.jsonl"
    first, *rest = spool.read_text().splitlines(keepends=True)
    spool.write_text(first + rest[0] * 5000 + rest[1])
    assert machine_failures([tmp_path]) == (0, pytest.approx(6.0))
