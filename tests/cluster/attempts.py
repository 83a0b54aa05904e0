"""Attempts as a journal and spools have them, without the jobs: when they began, where, how long they lived, why they ended."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from athanor.tracking.spool import SCHEMA_VERSION, Kind, Status, spool_files
from snakemake_executor_plugin_submitit.journal import Action, JobFolder, Judgement, StartRecord

LONG_AGO = 1.7e9  # seconds since the epoch
HOUR = 3600.0


@dataclass(frozen=True)
class Start:
    """One start of a job."""

    nodes: tuple[str, ...]
    hours: float  # that the stage lived
    said: Status | None = None  # its last word; None: it was killed without one


@dataclass
class Attempts:
    """Adds attempts to the artifact in `folder`, one after the other."""

    folder: Path
    _now: float = field(default=LONG_AGO)

    def add(self, *starts: Start, cause: str = "") -> Path:
        """An attempt whose job was started so often, with a judgement where it has a cause. Returns its folder."""
        attempt = JobFolder(self.folder).attempts_folder / f"{len(JobFolder(self.folder).attempts()) + 1:03d}"
        attempt.mkdir(parents=True)
        for restart, start in enumerate(starts):
            record = StartRecord(restart, list(start.nodes), time=self._now)
            (attempt / f"start-{restart:03d}.json").write_text(record.to_json())
            self._spool(start)
        if cause:
            (attempt / Judgement.file_name).write_text(Judgement(cause, Action.RESTART, time=self._now).to_json())
        return attempt

    def _spool(self, start: Start) -> None:
        path = self.folder / "tracking" / f"{len(spool_files(self.folder)) + 1:03d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        began, ended = self._now + 1, self._now + 1 + HOUR * start.hours
        records = [(began, Kind.START, {"host": start.nodes[0]}), (began + 5, Kind.METRICS, {"loss": 1.0})]
        records.append((ended, Kind.SYSTEM, {"cpu": 1.0}) if start.said is None else (ended, Kind.END, {"status": start.said}))
        path.write_text("".join(_line(seq, *record) for seq, record in enumerate(records, 1)))
        self._now = ended + 60


def _line(seq: int, moment: float, kind: Kind, payload: dict[str, object]) -> str:
    record = {"schema_version": SCHEMA_VERSION, "seq": seq, "time": moment, "step": 0, "kind": kind, "payload": payload}
    return json.dumps(record) + "\n"
