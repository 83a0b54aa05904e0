"""Why an attempt ended and what to do about it: from evidence to cause to action, as a table that is read from above.

The rows here know nothing but jobs. `--submitit-policy module:function` names a function that is asked first: it takes
an `Evidence` and returns a `Judgement`, or None to leave the attempt to this table.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from snakemake_interface_common.exceptions import WorkflowError

from .failure import first_failed, tail_of
from .journal import UNWRITTEN, Action, Attempt, End, Judgement, Outcome
from .progress import newest_mark, read_note

_LOG_LINES = 200
_TEMPFAIL, _SIGKILL = 75, 137


@dataclass(frozen=True)
class Evidence:
    """What an ended attempt left behind."""

    outcome: Outcome
    state: str
    """Slurm's own word for the job's end, such as NODE_FAIL; TIMEOUT on this machine too; else empty."""
    detail: str
    """What is known besides, in words."""
    exit_code: int | None
    """Of the first rank that failed."""
    rank: int | None
    """The first rank that failed."""
    host: str
    """Where the fault is: what that rank wrote as `node`, else where it ran; empty when nobody knows."""
    kind: str
    """What that rank called its failure in `exit-RANK.json`."""
    said: str
    """The cause that it gave there."""
    log: str
    """The last lines of its log, and of Slurm's own."""
    asked: bool
    """A soft stop had been asked of that rank."""
    full: bool
    """Records of its end could not be written."""
    beats: bool
    """The program marks its progress, so it is taken to continue where it stopped."""

    def mentions(self, pattern: str) -> str:
        """Return the line of the log, or of the stated cause, that matches the regular expression; empty if none does."""
        lines = [self.said, *reversed(self.log.splitlines())]
        return next((line.strip() for line in lines if re.search(pattern, line)), "")


def gather(attempt: Attempt, end: End) -> Evidence:
    """Read what the ended attempt left."""
    failed = first_failed(attempt)
    rank = failed.rank if failed else end.rank
    note = read_note(attempt.folder, rank) if rank is not None else {}
    starts = attempt.starts()
    hosts = starts[-1].hosts if starts else []
    logs = [*tail_of(attempt.rank_log(rank or 0), _LOG_LINES), *_controller_says(attempt)]
    return Evidence(
        outcome=end.outcome,
        state=end.state,
        detail=end.cause,
        exit_code=failed.exit_code if failed else end.exit_code,
        rank=rank,
        host=str(note.get("node", "")) or (failed.host if failed else hosts[0] if len(hosts) == 1 else ""),
        kind=str(note.get("kind", "")),
        said=str(note.get("cause", "")),
        log="\n".join(logs),
        asked=failed is not None and failed.stopped,  # the others are asked to stop because one has failed
        full=(attempt.folder / UNWRITTEN).exists(),
        beats=newest_mark(attempt.folder) is not None,
    )


def _controller_says(attempt: Attempt) -> list[str]:
    """Return the ends of the logs that srun and slurmstepd write into, where the out-of-memory killer is mentioned."""
    lines: list[str] = []
    job = attempt.job()
    logs = attempt.submitit_folder.glob(f"{job.id if job else ''}_*_log.out")
    for log in sorted(logs, key=lambda path: path.stat().st_mtime)[-3:]:
        lines += tail_of(log, 20)
    return lines


@dataclass(frozen=True)
class Row:
    """One line of a table: when `test` holds, the attempt ended for this cause."""

    cause: str
    told_by: str
    """The evidence, for the reader."""
    test: Callable[[Evidence], object]
    """True for a match; a string is the very line that tells."""
    action: Action
    advice: str = ""
    """What a person does about it, where one has to."""


_FULL = r"No space left on device|Disk quota exceeded"
_OUT_OF_MEMORY = r"oom[-_]kill|Out Of Memory|Exceeded job memory limit|exceeded memory limit"

TABLE = (
    Row(
        "cancelled", "Slurm's CANCELLED, a signal to the local controller", lambda e: e.outcome is Outcome.CANCELLED, Action.STOP
    ),
    Row("lost", "no job, no record, no end", lambda e: e.outcome is Outcome.LOST, Action.RESTART),
    Row("no progress", "the rank's own count of its starts", lambda e: e.kind == "no progress", Action.ASK, "see its log"),
    Row("hang", "silence of the progress marks; stacks in `stacks-RANK.txt`", lambda e: e.kind == "hang", Action.RESTART),
    Row("node failed", "NODE_FAIL, BOOT_FAIL", lambda e: e.state in ("NODE_FAIL", "BOOT_FAIL"), Action.ELSEWHERE),
    Row("preempted", "PREEMPTED", lambda e: e.state == "PREEMPTED", Action.RESTART),
    Row(
        "out of memory",
        "OUT_OF_MEMORY, or the killer's words in a log",
        lambda e: e.state == "OUT_OF_MEMORY" or e.mentions(_OUT_OF_MEMORY),
        Action.ASK,
        "ask for more memory a node (mem_mb), or give each rank less to hold",
    ),
    Row(
        "disk full",
        "no space or quota, in a log; records that could not be written",
        lambda e: e.mentions(_FULL) or e.full,
        Action.ASK,
        "make room, then run again",
    ),
    Row(
        "never started",
        "exit code 0:53, which Slurm gives where a job's folder or log cannot be opened",
        lambda e: e.exit_code is None and "0:53" in e.detail,
        Action.ASK,
        "see that the journal's folder can be written from the compute nodes",
    ),
    Row(
        "stopped on request",
        "exit code 75, or any end after a soft stop",
        lambda e: e.asked or e.exit_code == _TEMPFAIL,
        Action.RESTART,
    ),
    Row("time limit", "TIMEOUT of a program that marks its progress", lambda e: e.beats and e.state == "TIMEOUT", Action.RESTART),
    Row(
        "time limit",
        "TIMEOUT of a program that does not",
        lambda e: e.state in ("TIMEOUT", "DEADLINE"),
        Action.STOP,
        "ask for more time (runtime), or have the program save on SIGTERM and exit 75",
    ),
    Row("killed", "SIGKILL, of a program that marks its progress", lambda e: e.beats and e.exit_code == _SIGKILL, Action.RESTART),
    Row("failed", "anything else", lambda e: True, Action.STOP),
)

Policy = Callable[[Evidence], Judgement | None]


def first_match(rows: Iterable[Row], evidence: Evidence) -> Judgement | None:
    """Return the judgement of the first row that matches, or None."""
    for row in rows:
        told = row.test(evidence)
        if told:
            return Judgement(row.cause, row.action, row.advice, told if isinstance(told, str) else "", evidence.host)
    return None


def judge(evidence: Evidence, policy: Policy | None = None) -> Judgement:
    """Return what the policy says, else what the table says."""
    found = policy(evidence) if policy is not None else None
    return found or first_match(TABLE, evidence) or Judgement("failed", Action.STOP)


def load_policy(name: str) -> Policy | None:
    """Import `module:function`; None for an empty name. Raises WorkflowError when there is no such function."""
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        found: Policy = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise WorkflowError(
            f"submitit executor: --submitit-policy={name}: {error}; give module:function of an importable module"
        ) from error
    return found


def markdown(rows: Iterable[Row]) -> str:
    """Return the table as documentation shows it."""
    lines = [f"| {row.cause} | {row.told_by} | {row.action} |" for row in rows]
    return "\n".join(["| cause | told by | action |", "|---|---|---|", *lines]) + "\n"
