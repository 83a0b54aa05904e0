"""How far an artifact is, read from its folder: nothing is asked of the scheduler or of another process."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from athanor.artifacts.manifest import MANIFEST
from snakemake_executor_plugin_submitit.journal import Judgement

JUDGED_WITHIN_SECONDS = 10.0  # of a job's end by a driver that lives
STARTED_WITHIN_SECONDS = 60.0  # of that judgement, where it is to start again


class State(StrEnum):
    """What an artifact's folder shows."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units, at `rate` units a second since the attempt's first mark."""

    done: int
    total: int
    unit: str
    rate: float
    age_seconds: float

    @property
    def seconds_left(self) -> float | None:
        """Time to go at the present rate."""
        return max(0, self.total - self.done) / self.rate if self.rate > 0 else None  # the last step may overshoot


def latest_attempt(folder: Path) -> Path | None:
    """The newest `attempts/NNN` of an artifact."""
    attempts = (path for path in (folder / "attempts").glob("*") if path.name.isdigit())
    return max(attempts, key=lambda path: int(path.name), default=None)


def state_of(folder: Path) -> State:
    """What the artifact in `folder` is up to."""
    if (folder / MANIFEST).is_file():
        return State.DONE
    attempt = latest_attempt(folder)
    if attempt is None:
        return State.WAITING
    end = _read(attempt / "end.json")
    if end is not None:
        return _state_after(attempt, end)
    return State.RUNNING if (attempt / "rank-0.log").exists() else State.QUEUED


def _state_after(attempt: Path, end: dict[str, Any]) -> State:
    """The state between an attempt's end and what follows: its driver may be about to start it again."""
    if end.get("outcome") == "success":
        return State.WAITING
    judgement = Judgement.read(attempt)
    if judgement is None:
        return State.QUEUED if time.time() - float(end.get("time", 0)) < JUDGED_WITHIN_SECONDS else State.FAILED
    soon = time.time() - judgement.time < STARTED_WITHIN_SECONDS
    return State.QUEUED if soon and judgement.action.starts_again else State.FAILED


def progress_of(folder: Path) -> Progress | None:
    """The newest progress mark of the artifact's newest attempt."""
    attempt = latest_attempt(folder)
    marks = [mark for path in attempt.glob("heartbeat-*.json") if (mark := _read(path))] if attempt else []
    if not marks:
        return None
    mark = max(marks, key=lambda m: float(m["time"]))
    seconds = mark["time"] - mark["began"]
    rate = (mark["done"] - mark["began_at"]) / seconds if seconds > 0 else 0.0
    return Progress(mark["done"], mark["total"], mark["unit"], rate, time.time() - mark["time"])


def failures_of(folder: Path) -> Iterator[str]:
    """Why the newest attempt failed, first failure first: what its ranks said, else how they ended."""
    attempt = latest_attempt(folder)
    if attempt is None:
        return
    judgement = Judgement.read(attempt)
    if judgement is not None and judgement.cause not in ("failed", "the stage refused"):
        where = f" on {judgement.host}" if judgement.host else ""
        yield ": ".join(filter(None, [f"{judgement.cause}{where}", judgement.evidence, judgement.advice]))
    exits = [found for path in attempt.glob("exit-*.json") if (found := _read(path))]
    for found in sorted(exits, key=lambda e: float(e.get("time", 0))):
        yield str(found["cause"])
    end = _read(attempt / "end.json")
    if end is not None and end.get("outcome") != "success":
        log = attempt / f"rank-{end.get('rank', 0)}.log"
        lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
        yield f"rank {end.get('rank')} ended with exit code {end.get('exit_code')} ({end.get('cause')}): {last[:200]}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None
