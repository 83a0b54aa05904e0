"""What the writer remembers between two drains: how far each spool is in MLflow.

It spares questions and reading, nothing more: with the file lost, the tags in MLflow tell the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from athanor.tracking.lock import replace_text

SCHEMA_VERSION = 1


@dataclass
class Progress:
    """One spool: the run it goes to, the bytes and the last record that are there, and how the attempt ended."""

    run_id: str = ""
    offset: int = 0
    seq: int = 0
    points: int = 0
    status: str = ""  # empty while the attempt runs


@dataclass
class WriterState:
    """The campaign's experiment and parent run, and its spools by store-relative path."""

    destination: str
    parent_run_id: str = ""
    experiment_id: str = ""
    spools: dict[str, Progress] = field(default_factory=dict)

    def spool(self, path: str) -> Progress:
        """How far the spool at `path` is."""
        return self.spools.setdefault(path, Progress())

    def save(self, path: Path) -> None:
        """Replace the file atomically."""
        replace_text(path, json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}))

    @classmethod
    def load(cls, path: Path, destination: str) -> "WriterState":
        """The remembered state; a new one when the file is missing, damaged or of another tracking server."""
        try:
            data: Mapping[str, object] = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return cls(destination)
        if data.get("schema_version") != SCHEMA_VERSION or data.get("destination") != destination:
            return cls(destination)
        spools = data["spools"]
        assert isinstance(spools, dict)
        known = {name: Progress(**progress) for name, progress in spools.items()}
        return cls(destination, str(data["parent_run_id"]), str(data["experiment_id"]), known)
