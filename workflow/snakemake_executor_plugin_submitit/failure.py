"""What to tell the user about a job that failed: who failed first, how, and the last it said."""

from __future__ import annotations

from .journal import Attempt, End, JobKind, Outcome, RankRecord

_TAIL_LINES = 5
_TAIL_BYTES = 16 * 1024
_LINE_CHARACTERS = 400


def first_failed(attempt: Attempt) -> RankRecord | None:
    """Return the record of the rank that failed first, or None when none left one."""
    failed = [record for record in attempt.ranks().values() if record.exit_code != 0]
    return min(failed, key=lambda record: record.time, default=None)


def end_from_ranks(attempt: Attempt, outcome: Outcome, cause: str) -> End:
    """Return the end of an attempt as its ranks recorded it."""
    codes = {str(rank): record.exit_code for rank, record in sorted(attempt.ranks().items())}
    if outcome is Outcome.SUCCESS:
        return End(outcome, cause, 0, None, codes)
    failed = first_failed(attempt)
    return End(outcome, cause, failed.exit_code if failed else None, failed.rank if failed else None, codes)


def describe(attempt: Attempt, end: End) -> str:
    """Say in a few lines which job failed, its first failed rank, exit code, log, and the log's last lines."""
    job = attempt.job()
    what = f"{job} " if job is not None and job.kind is not JobKind.NONE else ""
    lines = [f"{what}(attempt {attempt.number}) {end.outcome}: {end.cause}" if end.cause else f"{what}{end.outcome}"]
    rank = end.rank if end.rank is not None else 0
    if end.exit_code is not None:
        lines.append(f"rank {rank} of {len(end.exit_codes)} ended with exit code {end.exit_code}")
    log = attempt.rank_log(rank)
    tail = tail_of(attempt, rank)
    lines.append(f"log of rank {rank}: {log}" + (", which ends:" if tail else " (empty or missing)"))
    return "\n".join([*lines, *(f"    {line}" for line in tail)]) + "\n"


def tail_of(attempt: Attempt, rank: int) -> list[str]:
    """Return the last lines with content of a rank's log."""
    try:
        with attempt.rank_log(rank).open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = [line.rstrip()[:_LINE_CHARACTERS] for line in text.splitlines()]
    return [line for line in lines if any(character.isalnum() for character in line)][-_TAIL_LINES:]
