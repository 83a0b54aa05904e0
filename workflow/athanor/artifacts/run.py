"""What a stage is given while it runs, and what it hands back."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from athanor.artifacts.files import write_atomically
from athanor.artifacts.manifest import Manifest
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site
from athanor.tracking.spool import NullSpool, Spool

STOPPED = 75  # EX_TEMPFAIL: the stage saved what it had and wants to be started again


class StageError(Exception):
    """Something the user can mend: what is wrong, its value, the way out."""

    kind = "refused"  # for the executor's policy, see athanor.cluster.policy
    node = ""  # whose fault it is, where that is not the node of the first rank that fails


class Stopped(Exception):
    """The stage was asked to stop, has saved, and continues at the next start."""


@dataclass(frozen=True)
class Input:
    """One upstream artifact: its folder and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def instance(self) -> str:
        """`wiki_en-0`, `400K`: which one of its stage."""
        return self.manifest.result.instance

    @property
    def fingerprint(self) -> str:
        """Its identity."""
        return self.manifest.result.fingerprint

    @property
    def counters(self) -> Mapping[str, int | str]:
        """Deterministic facts: tokens, documents, step."""
        return self.manifest.result.counters

    @property
    def metrics(self) -> Mapping[str, float]:
        """Losses, scores and rates of the run that made it."""
        return self.manifest.provenance.metrics


@dataclass(frozen=True)
class Outcome:
    """What a stage made: `files` (paths below its folder), deterministic `counters`, and `metrics`.

    `trainer` says which program made it, where that was another's: its command, its version, and sha256 of its files.
    """

    files: tuple[str, ...]
    counters: Mapping[str, int | str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    trainer: Mapping[str, str] = field(default_factory=dict)


def node_name() -> str:
    """This machine's, as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


class Heartbeat:
    """Progress of one rank's stage, written to the attempt's folder at most every `every_seconds`."""

    def __init__(self, folder: Path | None, every_seconds: float) -> None:
        self._path = folder / f"heartbeat-{node_name()}.json" if folder else None
        self._every, self._last = every_seconds, float("-inf")
        self._first: tuple[float, int] | None = None

    def beat(self, done: int, total: int, unit: str) -> None:
        """Say that `done` of `total` units are behind us; a `total` of 0 is one that nobody knows yet."""
        now = time.time()
        if self._first is None:
            self._first = (now, done)
        if self._path is None or (now - self._last < self._every and (done < total or not total)):
            return
        self._last = now
        began, at = self._first
        mark = {"time": now, "done": done, "total": total, "unit": unit, "began": began, "began_at": at}
        write_atomically(self._path, json.dumps({"schema_version": 1, **mark}))


@dataclass
class StageRun:
    """One rank's view of the artifact that is being made."""

    recipe: Recipe
    stage: str
    instance: str
    fingerprint: str
    folder: Path
    inputs: Mapping[str, Input]
    rank: int = 0
    world_size: int = 1
    attempt: int = 1  # rank 0 counts, for all ranks
    roll_back: bool = False  # the executor asks to go on from before the newest saved state
    site: Site | None = None
    spool: Spool | NullSpool = field(default_factory=NullSpool)
    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat(None, 1.0))
    _stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress; cheap enough for every step."""
        if self.rank == 0:
            self.heartbeat.beat(done, total, unit)

    @property
    def stop_requested(self) -> bool:
        """Whether SIGTERM has come: save, then raise Stopped."""
        return self._stop.is_set()

    def listen_for_stop(self) -> None:
        """Turn SIGTERM into `stop_requested`."""

        def note(_signal: int, _frame: FrameType | None) -> None:
            self._stop.set()

        signal.signal(signal.SIGTERM, note)

    def input_named(self, name: str) -> Input:
        """The input `name`. Raises StageError when the rule did not pass it."""
        if name not in self.inputs:
            raise StageError(f"stage {self.stage} has no input {name!r}; it was given {', '.join(self.inputs) or 'none'}")
        return self.inputs[name]
