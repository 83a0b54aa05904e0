"""What to tell the user about a job that failed: why, who failed first, the last it said, what was tried, what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .journal import Attempt, End, JobFolder, JobKind, Judgement, Outcome, RankRecord
from .progress import newest_mark, read_note

_TAIL_LINES = 5
_TAIL_BYTES = 64 * 1024
_LINE_CHARACTERS = 400
_SHOWN_ATTEMPTS = 8


def first_failed(attempt: Attempt) -> RankRecord | None:
    """Return the record of the rank that failed first, or None when none left one.

    The rank with the error often exits last, when its peers have long seen the broken connection: the time at which it
    said what is wrong counts before the time of its exit.
    """
    failed = [record for record in attempt.ranks().values() if record.exit_code != 0]
    said = {record.rank: read_note(attempt.folder, record.rank).get("time") for record in failed}
    return min(failed, key=lambda record: float(said[record.rank] or record.time), default=None)


def end_from_ranks(attempt: Attempt, outcome: Outcome, cause: str, state: str = "") -> End:
    """Return the end of an attempt as its ranks recorded it; `state` is Slurm's word."""
    codes = {str(rank): record.exit_code for rank, record in sorted(attempt.ranks().items())}
    if outcome is Outcome.SUCCESS:
        return End(outcome, cause, 0, None, codes, state)
    failed = first_failed(attempt)
    return End(outcome, cause, failed.exit_code if failed else None, failed.rank if failed else None, codes, state)


def describe(folder: JobFolder, attempt: Attempt, end: End, judgement: Judgement) -> str:
    """Say which job ended for which cause, where, the last words of the first failed rank, and what was tried before."""
    job = attempt.job()
    what = f"{job} (attempt {attempt.number})" if job is not None and job.kind is not JobKind.NONE else "the job"
    where = f" on {judgement.host}" if judgement.host else ""
    lines = [f"{what} {end.outcome}: {judgement.cause}{where}" + (f" ({end.cause})" if end.cause else "")]
    rank = end.rank if end.rank is not None else 0
    if end.exit_code is not None:
        lines.append(f"rank {rank} of {len(end.exit_codes)} ended with exit code {end.exit_code}")
    if judgement.evidence:
        lines.append(f"told by: {judgement.evidence[:_LINE_CHARACTERS]}")
    log = attempt.rank_log(rank)
    tail = tail_of(log, _TAIL_LINES)
    lines.append(f"log of rank {rank}: {log}" + (", which ends:" if tail else " (empty or missing)"))
    lines += [f"    {line}" for line in tail]
    lines += _history(folder.attempts())
    if judgement.advice:
        lines.append(f"what helps: {judgement.advice}")
    return "\n".join(lines) + "\n"


def _history(attempts: Sequence[Attempt]) -> list[str]:
    """One line an attempt when there was more than one: how long ago, where, how far, why it ended."""
    if len(attempts) < 2:
        return []
    lines = ["attempts so far:"]
    if len(attempts) > _SHOWN_ATTEMPTS:
        lines.append(f"    {len(attempts) - _SHOWN_ATTEMPTS} earlier ones in {attempts[0].folder.parent}")
    return [*lines, *(f"    {_told(attempt)}" for attempt in attempts[-_SHOWN_ATTEMPTS:])]


def _told(attempt: Attempt) -> str:
    end, judgement, starts, mark = attempt.end(), attempt.judgement(), attempt.starts(), newest_mark(attempt.folder)
    began = starts[0].time if starts else attempt.intent().time
    hosts = ",".join(starts[-1].hosts[:2]) + (" …" if len(starts[-1].hosts) > 2 else "") if starts else "never started"
    parts = [
        f"{attempt.number}: {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(began))}",
        hosts,
        f"{len(starts)} starts" if len(starts) > 1 else "",
        f"{mark.done} {mark.unit}" if mark else "",
        judgement.cause if judgement else str(end.outcome) if end else "running",
        f"→ {judgement.action}" if judgement else "",
    ]
    return "  ".join(part for part in parts if part)


def tail_of(log: Path, lines: int) -> list[str]:
    """Return the last lines with content of a log; none where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = [line.rstrip()[:_LINE_CHARACTERS] for line in text.splitlines()]
    return [line for line in found if any(character.isalnum() for character in line)][-lines:]
