"""Garbage: artifacts no registered campaign refers to, and the trash they rest in before they are gone."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from athanor.artifacts.lease import Lease
from athanor.artifacts.manifest import IDENTITY
from athanor.artifacts.store import Store
from athanor.campaign.registry import campaigns, starts

TRASH = "trash"
GRACE_DAYS = 14.0


@dataclass(frozen=True)
class Garbage:
    """One folder nobody refers to."""

    folder: Path
    bytes: int
    owner: int  # user id


def unreferenced(store: Store, *, superseded: bool = False) -> list[Garbage]:
    """Artifact folders that no start of any registered campaign names and that no job is working in or reading from.

    With `superseded`, only each campaign's last start counts: what its earlier recipes made is garbage too.
    """
    histories = [starts(folder) for folder in campaigns(store.root)]
    kept = {path for history in histories for start in history[-1 if superseded else 0 :] for path in start.artifacts.values()}
    loose = [folder for folder in store.folders() if folder.relative_to(store.root).as_posix() not in kept]
    busy = [folder for folder in loose if _is_worked_in(folder)]
    needed = {folder.name for folder in busy} | {fingerprint for folder in busy for fingerprint in _inputs(folder)}
    return [Garbage(folder, _size(folder), folder.stat().st_uid) for folder in loose if folder.name not in needed]


def move_to_trash(store: Store, garbage: list[Garbage]) -> Iterator[Path]:
    """Move this user's garbage to `STORE/trash/DATE/`, from where it can be moved back."""
    day = store.root / TRASH / time.strftime("%Y%m%d-%H%M%S")
    for item in garbage:
        if item.owner != os.getuid():
            continue
        target = day / item.folder.relative_to(store.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(item.folder, target)
        yield target


def empty_trash(store: Store, grace_days: float = GRACE_DAYS) -> list[Path]:
    """Delete what has been in the trash for longer than the grace period."""
    old = [p for p in (store.root / TRASH).glob("*") if time.time() - p.stat().st_mtime > grace_days * 86400]
    for path in old:
        shutil.rmtree(path)
    return old


def _is_worked_in(folder: Path) -> bool:
    try:
        return Lease(folder).holder() is not None
    except PermissionError:  # another user's folder, where no clock can be read: let it be
        return True


def _inputs(folder: Path) -> list[str]:
    """Fingerprints of what the artifact is made from."""
    path = folder / IDENTITY
    return list(yaml.safe_load(path.read_text())["upstreams"].values()) if path.is_file() else []


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
