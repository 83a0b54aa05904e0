"""The write-ahead journal: claims are exclusive, decisions are final, readers see everything."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.journal import (
    Attempt,
    End,
    Intent,
    JobFolder,
    JobKind,
    JobRecord,
    JournalError,
    Outcome,
    RankRecord,
    StartRecord,
    read_jobs,
    replace,
    write_exclusively,
)
from snakemake_executor_plugin_submitit.processes import this_process


def intent(uid: str = "uid") -> Intent:
    return Intent("key", uid, "spec", JobKind.LOCAL, "rule", "command", 2, this_process(), "me")


def claimed(folder: Path, number: int = 1) -> Attempt:
    attempt = JobFolder(folder).claim(number, intent())
    assert attempt is not None
    return attempt


def test_claim_by_many_at_once_is_won_by_one_with_its_intent_in_place(tmp_path: Path) -> None:
    won: list[tuple[str, Attempt]] = []
    barrier = threading.Barrier(8)

    def claim(uid: str) -> None:
        barrier.wait()
        attempt = JobFolder(tmp_path).claim(1, intent(uid))
        if attempt is not None:
            won.append((uid, attempt))

    threads = [threading.Thread(target=claim, args=(f"uid{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((uid, attempt),) = won
    assert attempt.intent().uid == uid
    assert [item.name for item in (tmp_path / "attempts").iterdir()] == ["001"]


def test_records_read_back_as_they_were_written(tmp_path: Path) -> None:
    attempt = claimed(tmp_path)
    job = JobRecord(JobKind.LOCAL, "12", this_process())
    end = End(Outcome.FAILED, "exit code", 3, 1, {"0": 143, "1": 3})
    assert write_exclusively(attempt.folder, job) and attempt.finish(end)
    assert (attempt.job(), attempt.end(), attempt.intent().driver) == (job, end, this_process())


def test_decision_is_not_changed_by_a_second_writer(tmp_path: Path) -> None:
    attempt = claimed(tmp_path)
    assert attempt.finish(End(Outcome.SUCCESS))
    assert not attempt.finish(End(Outcome.LOST))
    assert attempt.end().outcome is Outcome.SUCCESS


def test_record_of_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    attempt = claimed(tmp_path)
    (attempt.folder / "end.json").write_text(json.dumps({"schema_version": 99, "outcome": "success"}))
    with pytest.raises(JournalError, match="schema_version=99"):
        attempt.end()


def test_starts_and_ranks_are_counted_from_their_files(tmp_path: Path) -> None:
    attempt = claimed(tmp_path)
    for restart in range(3):
        replace(attempt.folder, StartRecord(restart, ["host"]), f"start-{restart:03d}.json")
    replace(attempt.folder, RankRecord(1, 2, 75, "host", True), "rank-1.json")
    attempt.rank_log(1).write_text("said")
    assert len(attempt.starts()) == 3
    assert {rank: record.exit_code for rank, record in attempt.ranks().items()} == {1: 75}


def test_reader_finds_all_jobs_and_their_attempts_in_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        claimed(tmp_path / "train" / "0123", number)
    claimed(tmp_path / "eval" / "4567")
    found = read_jobs(tmp_path)
    assert {folder.name: [attempt.number for attempt in attempts] for folder, attempts in found.items()} == {
        "0123": [1, 2, 10],
        "4567": [1],
    }
