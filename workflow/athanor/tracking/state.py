"""What the writer remembers between two drains: how far each spool is in MLflow.

It spares questions and reading, nothing more: with the file lost, the tags in MLflow tell the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from athanor.tracking.lock import replace_text

SCHEMA_VERSION = 1


@dataclass
class Progress:
    """One spool: the run it goes to, the bytes and the last record that are there, and how the attempt ended."""

    run_id: str = ""
    name: str = ""  # pretrain/400K
    offset: int = 0  # bytes
    seq: int = 0  # of the last record that is in MLflow
    time: float = 0.0  # of that record, seconds since the epoch
    seconds: float = 0.0  # of the attempt, once it has ended
    status: str = ""  # RUNNING, FINISHED, FAILED or KILLED
    model_id: str = ""  # the model whose page shows this run's metrics, too
    ended: bool = False  # nothing more will come


@dataclass
class WriterState:
    """The campaign's experiment and parent run, and the progress of its spools by artifact and file name."""

    destination: str
    parent_run_id: str = ""
    experiment_id: str = ""
    spools: dict[str, dict[str, Progress]] = field(default_factory=dict)
    _saved: str = field(default="", repr=False)

    def spool(self, artifact: str, name: str) -> Progress:
        """How far one spool is."""
        return self.spools.setdefault(artifact, {}).setdefault(name, Progress())

    def newest(self, artifact: str) -> Progress | None:
        """The progress of the artifact's last attempt."""
        attempts = self.spools.get(artifact)
        return attempts[max(attempts, key=lambda name: (len(name), name))] if attempts else None

    def save(self, path: Path) -> None:
        """Replace the file atomically, where anything changed since the last time."""
        spools = {artifact: {name: asdict(p) for name, p in attempts.items()} for artifact, attempts in self.spools.items()}
        text = json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "destination": self.destination,
                "parent_run_id": self.parent_run_id,
                "experiment_id": self.experiment_id,
                "spools": spools,
            }
        )
        if text != self._saved:
            replace_text(path, text)
            self._saved = text

    @classmethod
    def load(cls, path: Path, destination: str) -> "WriterState":
        """The remembered state; a new one when the file is missing, damaged or of another MLflow."""
        try:
            text = path.read_text()
            data: Mapping[str, Any] = json.loads(text)
            if data["schema_version"] != SCHEMA_VERSION or data["destination"] != destination:
                return cls(destination)
            spools = {
                artifact: {name: Progress(**progress) for name, progress in attempts.items()}
                for artifact, attempts in data["spools"].items()
            }
            return cls(destination, data["parent_run_id"], data["experiment_id"], spools, text)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return cls(destination)
