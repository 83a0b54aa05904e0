"""The file protocol between a program and those who watch it, in its attempt's folder. Standard library only.

`heartbeat-NODE.json` marks progress; `exit-RANK.json` says why a rank ended, by the program or in its place.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mark:
    """One progress mark: at `time`, `done` of `total` units were behind the program."""

    time: float
    done: int
    total: int = 0
    unit: str = ""


def newest_mark(folder: Path) -> Mark | None:
    """Return the newest mark in an attempt's folder, or None where the program leaves none."""
    return _newest(folder)[0]


def newest_heartbeat(folder: Path) -> Path | None:
    """Return the file with the newest mark; None where there is none."""
    return _newest(folder)[1]


def _newest(folder: Path) -> tuple[Mark | None, Path | None]:
    newest: tuple[Mark | None, Path | None] = (None, None)
    for path in folder.glob("heartbeat-*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            total, unit = int(content.get("total") or 0), str(content.get("unit", ""))
            mark = Mark(float(content["time"]), int(content["done"]), total, unit)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written by a program that doesn't rename, or not a mark at all
        if newest[0] is None or mark.time > newest[0].time:
            newest = (mark, path)
    return newest


def note_file(rank: int) -> str:
    """Name of a rank's note about its end."""
    return f"exit-{rank}.json"


def note(folder: Path, rank: int, kind: str, cause: str) -> None:
    """Leave word of why a rank ends: `kind` for programs, `cause` for people."""
    draft = folder / f".{note_file(rank)}"
    content = {"schema_version": 1, "kind": kind, "cause": cause, "time": time.time()}
    draft.write_text(json.dumps(content), encoding="utf-8")
    os.replace(draft, folder / note_file(rank))


def read_note(folder: Path, rank: int) -> dict[str, Any]:
    """Return a rank's note about its end; empty where it left none."""
    try:
        content = json.loads((folder / note_file(rank)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
