"""What training knows about the ends of its jobs, told by lines that real jobs have left."""

from dataclasses import replace
from pathlib import Path

import pytest

from athanor.cluster.policy import ROWS, judge
from snakemake_executor_plugin_submitit.causes import Evidence, markdown
from snakemake_executor_plugin_submitit.journal import Action, Outcome

DOCS = Path(__file__).parents[2] / "docs" / "architecture.md"


def evidence(log: str = "", kind: str = "exception", exit_code: int = 1, beats: bool = True) -> Evidence:
    return Evidence(Outcome.FAILED, "", "", exit_code, 3, "node7", kind, "", log, asked=False, full=False, beats=beats)


@pytest.mark.parametrize(
    ("line", "cause", "action"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out of GPU memory", Action.ASK),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "GPU fault", Action.ELSEWHERE),
        ("RuntimeError: CUDA error: unspecified launch failure", "GPU fault", Action.ELSEWHERE),
        ("NVRM: Xid (PCI:0000:1b:00): 79, pid=1234, GPU has fallen off the bus.", "GPU fault", Action.ELSEWHERE),
        (
            "[rank3]:[E1126 ProcessGroupNCCL.cpp:629] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)",
            "collective failed",
            Action.RESTART,
        ),
        (
            "RuntimeError: [pair.cc:547] Connection closed by peer [10.0.0.2]:8811",
            "collective failed",
            Action.RESTART,
        ),
        ("torch.distributed.DistBackendError: NCCL error: ncclRemoteError: A call failed", "collective failed", Action.RESTART),
    ],
)
def test_line_of_the_log_tells_the_cause(line: str, cause: str, action: Action) -> None:
    judgement = judge(evidence(f"step 8\n{line}\nbye"))
    assert judgement is not None
    assert (judgement.cause, judgement.action, judgement.evidence, judgement.host) == (cause, action, line, "node7")


def test_word_of_the_stage_counts_before_its_log() -> None:
    log = "Connection closed by peer"
    assert judge(evidence(log, kind="non-finite loss")).action is Action.ROLL_BACK
    assert judge(evidence(log, kind="hardware fault")).action is Action.ELSEWHERE
    assert judge(evidence(log, kind="unexplained result")).action is Action.ELSEWHERE
    assert judge(evidence(log, kind="bad data")).action is Action.ASK
    assert judge(evidence(log, kind="loss spikes")).action is Action.ASK
    assert judge(evidence(log, kind="refused")).action is Action.STOP


def test_crash_of_a_training_process_suspects_its_node() -> None:
    assert judge(evidence(exit_code=139)).action is Action.ELSEWHERE
    assert judge(evidence(exit_code=139, beats=False)).cause == "failed"


def test_stage_that_is_killed_before_its_first_mark_starts_again() -> None:
    found = judge(evidence(exit_code=137, beats=False))
    assert (found.cause, found.action) == ("killed", Action.RESTART)
    late = replace(evidence(beats=False), state="TIMEOUT")
    assert judge(late).action is Action.RESTART
    full = replace(evidence(exit_code=137, beats=False), log="slurmstepd: error: Detected 1 oom_kill event in StepId=7.0")
    assert judge(full).cause == "out of memory"


def test_anything_else_is_left_to_the_executor() -> None:
    assert judge(evidence("ValueError: no")) is None


def test_documentation_has_the_table() -> None:
    assert markdown(ROWS) in DOCS.read_text(encoding="utf-8")
