"""How often machines have failed a training so far: what the interval between its saves is learnt from.

Read from the journal (which attempts there were, where, and why they ended) and the spools (how long each start of the
stage has lived: one spool a start, and the last record is at most some seconds older than its death).
"""

import contextlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from athanor.tracking.spool import Kind, ends_of, spool_files
from snakemake_executor_plugin_submitit.journal import Attempt, JobFolder, JournalError, StartRecord

HOUR = 3600.0
# Causes of the journal, ours (`policy.py`) and the executor's. What a person, a scheduler or the training itself ends is none.
OF_MACHINES = frozenset({"node failed", "hardware fault", "GPU fault", "crashed", "collective failed"})


@dataclass(frozen=True)
class _Start:
    """One start of a job; times in seconds since the epoch."""

    attempt: int
    nodes: int
    time: float


@dataclass(frozen=True)
class _Life:
    """One start of the stage, as its spool tells it."""

    began: float
    seconds: float
    has_ended: bool  # it said so: finished, failed or stopped


def machine_failures(folders: Iterable[Path]) -> tuple[int, float]:
    """How many failures of machines the artifacts in `folders` have had, and in how many node-hours of training.

    A failure is an attempt that was judged to have ended by one of `OF_MACHINES`, or a start that ended without a word and was
    followed by another in the same attempt: so Slurm starts a job again whose node has died, and leaves no judgement. (So it
    does after a preemption without time to save, which costs what a failure costs.)
    """
    failures, hours = 0, 0.0
    for folder in folders:
        attempts = JobFolder(folder).attempts()
        failures += sum(_judged(attempt) in OF_MACHINES for attempt in attempts)
        starts = sorted((start for attempt in attempts for start in _starts(attempt)), key=lambda start: start.time)
        placed = [(starts[at - 1], life) for life in _lives(folder) if (at := _before(starts, life.began))]
        hours += sum(start.nodes * life.seconds for start, life in placed) / HOUR
        failures += sum(not a.has_ended and one.attempt == other.attempt for (one, a), (other, _) in pairwise(placed))
    return failures, hours


def _judged(attempt: Attempt) -> str:
    """The cause that the driver found; empty where there is none, or none that can be read: training starts all the same."""
    with contextlib.suppress(JournalError):
        if (judgement := attempt.judgement()) is not None:
            return judgement.cause
    return ""


def _starts(attempt: Attempt) -> list[_Start]:
    records: list[StartRecord] = []
    with contextlib.suppress(JournalError):
        records = attempt.starts()
    return [_Start(attempt.number, len(set(record.hosts)), record.time) for record in records]


def _lives(folder: Path) -> list[_Life]:
    found = [ends for ends in map(ends_of, spool_files(folder)) if ends is not None]
    return [_Life(first.time, max(0.0, last.time - first.time), last.kind is Kind.END) for first, last in found]


def _before(starts: list[_Start], moment: float) -> int:
    """How many starts of the job were not later than the stage's own."""
    return bisect_right([start.time for start in starts], moment)
