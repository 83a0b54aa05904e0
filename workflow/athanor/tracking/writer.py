"""The one writer on the driver's side: drains the spools of a campaign's artifacts into MLflow while jobs run.

A process of its own, because one call to a slow server can block for minutes: MLflow down, locked or slow costs the
campaign nothing. What is not in MLflow yet stays in the spools; the next start, or `sync`, brings it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from athanor.tracking.description import Row
from athanor.tracking.destination import Destination
from athanor.tracking.drain import RUNNING, Drain, Say
from athanor.tracking.lock import WriterLock
from athanor.tracking.mlflow_adapter import MlflowAdapter, TrackingError
from athanor.tracking.spool import spool_files
from athanor.tracking.state import Progress, WriterState

LOOKED_AT_ONCE = 200  # artifacts without a live attempt that one round looks at: ten thousand would tire a file server


@dataclass(frozen=True)
class Summary:
    """How far MLflow is: runs and records in it, spool bytes that are not, and what stood in the way."""

    runs: int
    records: int
    behind: int
    problem: str = ""

    def __str__(self) -> str:
        text = f"{self.runs} runs, {self.records} records in MLflow"
        text += f", {self.behind} bytes of spools are not" if self.behind else ", nothing is missing"
        return f"{text}: {self.problem}" if self.problem else text


class Writer:
    """Drains `artifacts` (store-relative folders, upstreams first) into one campaign's runs."""

    def __init__(self, destination: Destination, campaign: str, artifacts: Sequence[str], say: Say) -> None:
        self._to, self._campaign, self._artifacts, self._say = destination, campaign, list(artifacts), say
        self._lock = WriterLock(destination.lock_path(campaign))
        self._held = False
        self._adapter: MlflowAdapter | None = None
        self._state: WriterState | None = None
        self._drain: Drain | None = None
        self._live: set[str] = set()
        self._elsewhere: dict[str, Row] = {}  # artifacts that other campaigns computed
        self._next = 0

    def begin(self) -> bool:
        """Take the campaign's lock; False while another writer holds it."""
        self._held = self._held or self._lock.try_acquire()
        return self._held

    def drain_once(self, interrupted: Callable[[], bool] = lambda: False, *, everything: bool = False) -> int:
        """One round over the live artifacts and some, or all, of the others. Returns the records taken.

        Raises TrackingError; what was taken before is remembered.
        """
        if not self._lock.is_held():  # this process was suspended so long that another took over
            self._held, self._drain = False, None
            return 0
        taken = 0
        try:
            drain, _ = self._own()
            for artifact in list(self._artifacts) if everything else self._due():
                if interrupted():
                    break
                taken += self._drain_artifact(artifact)
            drain.refresh_campaign(self._rows(), len(self._artifacts))
        finally:
            if self._state is not None:
                self._state.save(self._to.state_path(self._campaign))
        return taken

    def end(self) -> None:
        """Say in MLflow how the campaign stands. Raises TrackingError."""
        if self._held and self._drain is not None:
            self._drain.refresh_campaign(self._rows(), len(self._artifacts), self._outcome())

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()
        self._held = False

    def _own(self) -> tuple[Drain, WriterState]:
        """This campaign's drain; connects at the first call, which imports MLflow."""
        if self._drain is None or self._state is None:
            self._state = WriterState.load(self._to.state_path(self._campaign), self._to.key)
            self._drain = self._open(self._campaign, self._state)
        return self._drain, self._state

    def _open(self, campaign: str, state: WriterState) -> Drain:
        if self._adapter is None:
            self._to.prepare()
            self._adapter = MlflowAdapter(self._to.uri, self._to.artifact_root)
        return Drain(self._to.store, campaign, self._adapter, state, self._drain_artifact, self._say)

    def _due(self) -> list[str]:
        others = [artifact for artifact in self._artifacts if artifact not in self._live]
        count = min(LOOKED_AT_ONCE, len(others))
        turn = [others[(self._next + k) % len(others)] for k in range(count)]
        self._next += count
        chosen = self._live.union(turn)
        return [artifact for artifact in self._artifacts if artifact in chosen]

    def _drain_artifact(self, artifact: str) -> int:
        if not spool_files(self._to.store / artifact):
            return 0
        campaign = self._to.claim(artifact, self._campaign)
        if campaign != self._campaign:
            return self._drain_for(campaign, artifact)
        drain, _ = self._own()
        taken = drain.drain_folder(artifact)
        row = self._row(artifact)
        (self._live.add if row is not None and row.status == RUNNING else self._live.discard)(artifact)
        return taken

    def _drain_for(self, campaign: str, artifact: str) -> int:
        """Drain an artifact that another campaign computed, unless that campaign's own writer is at work."""
        lock, path, taken = WriterLock(self._to.lock_path(campaign)), self._to.state_path(campaign), 0
        ours = lock.try_acquire()
        try:
            state = WriterState.load(path, self._to.key)
            if ours:
                taken = self._open(campaign, state).drain_folder(artifact)
                state.save(path)
            if row := _row_in(state, artifact):
                self._elsewhere[artifact] = row
            return taken
        finally:
            if ours:
                lock.release()

    def _rows(self) -> list[Row]:
        return [row for artifact in self._artifacts if (row := self._row(artifact)) is not None]

    def _row(self, artifact: str) -> Row | None:
        own = _row_in(self._state, artifact) if self._state is not None else None
        return own or self._elsewhere.get(artifact)

    def _outcome(self) -> str:
        """FINISHED when every artifact is, FAILED when one failed, KILLED when the driver went before the end."""
        rows = self._rows()
        states = {row.status for row in rows}
        if "FAILED" in states:
            return "FAILED"
        return "FINISHED" if states == {"FINISHED"} and len(rows) == len(self._artifacts) else "KILLED"


def _row_in(state: WriterState, artifact: str) -> Row | None:
    """The artifact's newest attempt as far as it is in MLflow."""
    last = state.newest(artifact)
    if last is None or not last.run_id:
        return None
    return Row(last.name, state.experiment_id, last.run_id, last.status, last.seconds)


def sync(store: Path, campaign: str, artifacts: Sequence[str], uri: str = "", say: Say | None = None) -> Summary:
    """Bring everything in the spools into MLflow, in this process. Problems are in the result, not raised."""
    destination = Destination(store, uri)
    writer = Writer(destination, campaign, artifacts, say or to_stderr)
    problem = ""
    if not writer.begin():
        return summary(store, campaign, artifacts, uri, "the writer of the running campaign is at it")
    try:
        writer.drain_once(everything=True)
        writer.end()
    except TrackingError as error:
        problem = f"MLflow at {destination.shown} did not answer: {error}"
    finally:
        writer.release()
    return summary(store, campaign, artifacts, uri, problem)


def summary(store: Path, campaign: str, artifacts: Sequence[str], uri: str = "", problem: str = "") -> Summary:
    """How far MLflow is, from the writers' own memory: no connection, no import of MLflow."""
    destination = Destination(store, uri)
    states: dict[str, WriterState] = {}
    runs = records = behind = 0
    for artifact in artifacts:
        for path in spool_files(destination.store / artifact):
            owner = destination.owner(artifact, campaign)
            if owner not in states:
                states[owner] = WriterState.load(destination.state_path(owner), destination.key)
            progress = states[owner].spools.get(artifact, {}).get(path.name, Progress())
            runs += bool(progress.run_id)
            records += progress.seq
            behind += max(0, path.stat().st_size - progress.offset)
    return Summary(runs, records, behind, problem)


def to_stderr(message: str) -> None:
    """One line for the writer's log."""
    print(f"tracking: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    from athanor.tracking.process import main

    sys.exit(main())
