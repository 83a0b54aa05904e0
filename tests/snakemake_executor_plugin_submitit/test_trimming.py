"""What stays of an ended attempt: the records, and what tells something; never anything of one that may still run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.arrays import ArrayMembers
from snakemake_executor_plugin_submitit.journal import Attempt, End, Intent, JobFolder, JobKind, Outcome, RankRecord, replace
from snakemake_executor_plugin_submitit.processes import this_process
from snakemake_executor_plugin_submitit.progress import newest_mark, note, read_note
from snakemake_executor_plugin_submitit.trimming import KEPT_WHOLE, trim, trim_older

RANKS = 3


def lived(folder: Path, number: int = 1, end: End | None = None) -> Attempt:
    """An attempt of three ranks that has left all that one can leave."""
    intent = Intent("key", f"uid{number}", "spec", JobKind.SLURM, "rule", "command", RANKS, this_process(), "me")
    attempt = JobFolder(folder).claim(number, intent)
    assert attempt is not None
    attempt.submitit_folder.mkdir()
    (attempt.submitit_folder / "1_submitted.pkl").write_text("task")
    (attempt.folder / "alive").touch()
    for rank in range(RANKS):
        attempt.rank_log(rank).write_text(f"words of {rank}\n" if rank else "")
        (attempt.folder / f"stacks-{rank}.txt").touch()
        (attempt.folder / f"heartbeat-node{rank}.json").write_text(json.dumps({"time": rank, "done": 10 * rank}))
        replace(attempt.folder, RankRecord(rank, 0, int(rank == 1), "node"), f"rank-{rank}.json")
        note(attempt.folder, rank, "exit", f"cause {rank}")
    if end is not None:
        attempt.finish(end)
    return attempt


def names(attempt: Attempt) -> set[str]:
    return {path.name for path in attempt.folder.iterdir()}


FAILURE = End(Outcome.FAILED, "exit code", 1, rank=1)


def test_failed_attempt_keeps_its_records_and_what_the_first_failed_rank_said(tmp_path: Path) -> None:
    attempt = lived(tmp_path, end=FAILURE)
    trim(attempt, shared=False)
    assert names(attempt) == {"intent.json", "end.json", "rank-1.json", "rank-1.log", "exit-1.json", "heartbeat-node2.json"}
    mark = newest_mark(attempt.folder)
    assert mark is not None and mark.done == 20
    assert read_note(attempt.folder, 1)["cause"] == "cause 1"


def test_successful_attempt_keeps_every_log_that_says_something_and_the_one_of_rank_0(tmp_path: Path) -> None:
    attempt = lived(tmp_path, end=End(Outcome.SUCCESS))
    trim(attempt, shared=False)
    assert {name for name in names(attempt) if not name.endswith(".json")} == {"rank-0.log", "rank-1.log", "rank-2.log"}


def test_attempt_that_has_not_ended_stays_whole(tmp_path: Path) -> None:
    attempt = lived(tmp_path)
    before = names(attempt)
    trim(attempt, shared=False)
    assert names(attempt) == before


@pytest.mark.parametrize("shared", [True, False])
def test_folder_that_an_array_shares_stays_while_it_may_serve_others(tmp_path: Path, shared: bool) -> None:
    attempt, member = lived(tmp_path / "a", end=FAILURE), lived(tmp_path / "b", end=FAILURE)
    (member.submitit_folder / "1_submitted.pkl").unlink()
    member.submitit_folder.rmdir()
    member.submitit_folder.symlink_to(attempt.submitit_folder)
    trim(member, shared=shared)
    assert not member.submitit_folder.is_symlink() and attempt.submitit_folder.exists()
    trim(attempt, shared=shared)
    assert attempt.submitit_folder.exists() == shared


def test_new_attempt_trims_the_one_that_is_no_longer_among_the_newest(tmp_path: Path) -> None:
    for number in range(1, KEPT_WHOLE + 2):
        attempt = lived(tmp_path, number, FAILURE)
        if number == 2:
            replace(attempt.submitit_folder, ArrayMembers("uid", ["uid2"]))
        trim_older(JobFolder(tmp_path), number)
    first, *others = JobFolder(tmp_path).attempts()
    assert not first.submitit_folder.exists()
    assert all(attempt.submitit_folder.exists() for attempt in others)
    trim_older(JobFolder(tmp_path), KEPT_WHOLE + 2)
    assert others[0].submitit_folder.exists() and not others[0].rank_log(2).exists()


def test_trimming_is_never_in_the_way_of_a_new_attempt(tmp_path: Path) -> None:
    trim_older(JobFolder(tmp_path), KEPT_WHOLE + 1)  # there is none to trim
