"""Nodes that failed a job: remembered in a folder, one file a node, excluded from later jobs until the memory expires."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from .journal import Record, replace

_NODE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class BadNode(Record):
    """One node that is not to be used."""

    file_name: ClassVar[str] = "NODE.json"
    node: str
    cause: str
    job: str
    """The job that told."""
    until: float
    """Seconds since the epoch at which it is forgiven."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class BadNodes:
    """The memory of bad nodes in `folder`, which may be shared by drivers and users."""

    folder: Path

    def remember(self, node: str, cause: str, job: str, hours: float) -> BadNode | None:
        """Exclude `node` for so many hours from now; None for a name that is none of a node's."""
        if not _NODE_NAME.fullmatch(node):
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        record = BadNode(node, cause, job, time.time() + 3600 * hours)
        replace(self.folder, record, f"{node}.json")
        return record

    def all(self) -> list[BadNode]:
        """Return the nodes that are excluded now, by name; expired memories are left out."""
        if not self.folder.is_dir():
            return []
        records = [BadNode.read(self.folder, path.name) for path in sorted(self.folder.glob("*.json"))]
        return [record for record in records if record is not None and record.until > time.time()]

    def forgive(self, node: str) -> bool:
        """Use the node again; False when it was not excluded."""
        path = self.folder / f"{node}.json"
        if not _NODE_NAME.fullmatch(node) or not path.is_file():
            return False
        path.unlink()
        return True
