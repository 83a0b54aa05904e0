"""From what an ended attempt leaves to why it ended and what is done."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.causes import TABLE, Evidence, gather, judge, load_policy, markdown
from snakemake_executor_plugin_submitit.failure import describe
from snakemake_executor_plugin_submitit.journal import (
    Action,
    Attempt,
    End,
    Intent,
    JobFolder,
    JobKind,
    JobRecord,
    Judgement,
    Outcome,
    RankRecord,
    StartRecord,
)
from snakemake_executor_plugin_submitit.journal import (
    replace as write,
)
from snakemake_executor_plugin_submitit.processes import this_process
from snakemake_executor_plugin_submitit.progress import note
from snakemake_executor_plugin_submitit.submission import Guard

DOCS = Path(__file__).parents[2] / "docs" / "executor.md"
NOTHING = Evidence(Outcome.FAILED, "", "", 1, 0, "node1", "", "", "", asked=False, full=False, beats=False)


@pytest.mark.parametrize(
    ("found", "cause", "action"),
    [
        ({}, "failed", Action.STOP),
        ({"outcome": Outcome.CANCELLED}, "cancelled", Action.STOP),
        ({"outcome": Outcome.LOST}, "lost", Action.RESTART),
        ({"kind": "hang", "exit_code": 137}, "hang", Action.RESTART),
        ({"kind": "no progress"}, "no progress", Action.ASK),
        ({"state": "NODE_FAIL", "exit_code": None}, "node failed", Action.ELSEWHERE),
        ({"state": "BOOT_FAIL"}, "node failed", Action.ELSEWHERE),
        ({"state": "PREEMPTED"}, "preempted", Action.RESTART),
        ({"state": "OUT_OF_MEMORY"}, "out of memory", Action.ASK),
        ({"exit_code": 137, "log": "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0."}, "out of memory", Action.ASK),
        ({"log": "OSError: [Errno 28] No space left on device\nbye"}, "disk full", Action.ASK),
        ({"said": "OSError: [Errno 122] Disk quota exceeded"}, "disk full", Action.ASK),
        ({"exit_code": None, "full": True}, "disk full", Action.ASK),
        ({"exit_code": None, "detail": "Slurm says FAILED exit code 0:53"}, "never started", Action.ASK),
        ({"exit_code": 75}, "stopped on request", Action.RESTART),
        ({"exit_code": 137, "asked": True, "state": "TIMEOUT"}, "stopped on request", Action.RESTART),
        ({"state": "TIMEOUT", "beats": True}, "time limit", Action.RESTART),
        ({"state": "TIMEOUT"}, "time limit", Action.STOP),
        ({"exit_code": 137, "beats": True}, "killed", Action.RESTART),
        ({"exit_code": 137}, "failed", Action.STOP),
    ],
)
def test_evidence_leads_to_cause_and_action(found: dict[str, object], cause: str, action: Action) -> None:
    judgement = judge(replace(NOTHING, **found))
    assert (judgement.cause, judgement.action) == (cause, action)
    assert judgement.host == "node1"


def test_line_that_told_is_kept() -> None:
    assert judge(replace(NOTHING, log="first\n disk quota?\nDisk quota exceeded (os error)\nlast")).evidence == (
        "Disk quota exceeded (os error)"
    )


def test_policy_is_asked_first_and_may_leave_it_to_the_table() -> None:
    mine = Judgement("my cause", Action.ASK)
    assert judge(NOTHING, lambda evidence: mine) is mine
    assert judge(NOTHING, lambda evidence: None).cause == "failed"


@pytest.mark.parametrize("name", ["no_such_module:judge", "json:no_such_function", "json:", "json"])
def test_policy_that_is_not_there_is_an_error_with_its_name(name: str) -> None:
    with pytest.raises(WorkflowError, match=re.escape(f"--submitit-policy={name}")):
        load_policy(name)


def test_documentation_has_the_table() -> None:
    assert markdown(TABLE) in DOCS.read_text(encoding="utf-8")


def ended(folder: Path, number: int = 1, **values: object) -> Attempt:
    """An attempt of two ranks in which rank 1 failed."""
    intent = Intent("key", f"uid{number}", "spec", JobKind.SLURM, "train", "command", 2, this_process(), "me")
    attempt = JobFolder(folder).claim(number, intent)
    assert attempt is not None
    write(attempt.folder, StartRecord(0, ["node1", "node2"]))
    for rank in range(2):
        record = RankRecord(rank, 0, 7 if rank else 1, f"node{rank + 1}", time=100.0 - rank)
        write(attempt.folder, record, f"rank-{rank}.json")
        attempt.rank_log(rank).write_text(f"rank {rank} began\nrank {rank} ended badly\n")
    attempt.finish(End(Outcome.FAILED, "Slurm says FAILED", 7, 1, {"0": 1, "1": 7}, "FAILED"))
    return attempt


def test_gathered_evidence_is_that_of_the_rank_that_failed_first(tmp_path: Path) -> None:
    attempt = ended(tmp_path)
    (attempt.folder / "heartbeat-node1.json").write_text('{"time": 5, "done": 3, "total": 9, "unit": "steps"}')
    evidence = gather(attempt, attempt.end())
    assert (evidence.rank, evidence.host, evidence.exit_code, evidence.beats) == (1, "node2", 7, True)
    assert "rank 1 ended badly" in evidence.log and "rank 0" not in evidence.log


def test_rank_that_says_why_first_is_named_though_it_exits_last(tmp_path: Path) -> None:
    attempt = ended(tmp_path)
    note(attempt.folder, 0, "exception", "ValueError: the reason")
    path = attempt.folder / "exit-0.json"
    path.write_text(re.sub(r'"time": [\d.]+', '"time": 50', path.read_text()))
    evidence = gather(attempt, attempt.end())
    assert (evidence.rank, evidence.said) == (0, "ValueError: the reason")


def test_node_that_a_rank_holds_at_fault_is_suspected_instead_of_its_own(tmp_path: Path) -> None:
    attempt = ended(tmp_path)
    (attempt.folder / "exit-1.json").write_text('{"kind": "hardware fault", "cause": "rank 5", "node": "node3", "time": 99}')
    evidence = gather(attempt, attempt.end())
    assert (evidence.rank, evidence.host, evidence.kind) == (1, "node3", "hardware fault")


def test_words_of_slurmstepd_count_as_evidence(tmp_path: Path) -> None:
    attempt = ended(tmp_path)
    write(attempt.folder, JobRecord(JobKind.SLURM, "7"))
    attempt.submitit_folder.mkdir()
    (attempt.submitit_folder / "7_0_log.out").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0\n")
    assert judge(gather(attempt, attempt.end())).cause == "out of memory"


def test_failure_report_has_cause_node_exit_code_last_lines_history_and_what_helps(tmp_path: Path) -> None:
    first, second = ended(tmp_path, 1), ended(tmp_path, 2)
    write(first.folder, Judgement("node failed", Action.ELSEWHERE, host="node2"))
    judgement = Judgement("out of memory", Action.ASK, "ask for more memory", "oom_kill event", "node2")
    write(second.folder, judgement)
    said = describe(JobFolder(tmp_path), second, second.end(), judgement)
    for expected in (
        "out of memory on node2",
        "rank 1 of 2 ended with exit code 7",
        "oom_kill event",
        str(second.rank_log(1)),
        "    rank 1 ended badly",
        "node failed  → restart elsewhere",
        "out of memory  → ask",
        "what helps: ask for more memory",
    ):
        assert expected in said, said


def test_guard_counts_attempts_without_progress_in_a_row() -> None:
    guard = Guard()
    marks = (None, None, 10, 10, 10, 20, 15, 20, 20)
    assert [guard.allows(number, done, 3) for number, done in enumerate(marks, 1)] == [
        *(True, True, True),
        *(True, True, True),
        *(True, True, False),
    ]
