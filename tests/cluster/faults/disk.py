"""A file system that is full."""

from __future__ import annotations

import errno
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .. import mounts
from ..configuration import ClusterError
from .fault import Fault, argument

_BALLAST = ".ballast"
_ROOMY_MEGABYTES = 4096
_PIECE_BYTES = 1 << 16
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class FullDisk(Fault):
    """A small file system on PATH fills by what is written ("No space left on device"); a second time: it is full at once.

    The first call mounts it (tmpfs), empty, on a new or empty folder, for jobs and login node alike. The second one fills
    it, whatever its size. It goes when the cluster stops, with what is on it.
    """

    kind: ClassVar[str] = "full-disk"
    way_back: ClassVar[str] = f"it has {_ROOMY_MEGABYTES} MB and what was written"

    path: Path = argument("the folder")
    megabytes: int = argument("size of the file system, 1 or more", default=8)

    def inflict(self) -> str:
        """See Fault."""
        path = self.path.resolve()
        if path in mounts.mounted(self.cluster.layout):
            used = shutil.disk_usage(path).used
            mounts.resize(path, max(1, math.ceil(used / _MEGABYTE)))
            return f"{path} is full: {used} bytes were written, {_fill(path)} bytes of ballast fill the rest"
        if self.megabytes < 1:
            raise ClusterError(f"--megabytes={self.megabytes} is no size; give 1 or more")
        _make_empty(path)
        mounts.mount(self.cluster.layout, path, self.megabytes)
        return f"{path} is a file system of {self.megabytes} MB; again to fill it at once"

    def repair(self) -> str:
        """See Fault."""
        path = self.path.resolve()
        there = mounts.mounted(self.cluster.layout)
        if path not in there:
            raise ClusterError(f"{path} is no small file system of the cluster; it has {', '.join(map(str, there)) or 'none'}")
        (path / _BALLAST).unlink(missing_ok=True)
        mounts.resize(path, _ROOMY_MEGABYTES)
        return f"{path} has {_ROOMY_MEGABYTES} MB"


def _make_empty(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ClusterError(f"{path} is not an empty folder: a file system mounted on it would hide what is there; name another")
    path.mkdir(parents=True, exist_ok=True)


def _fill(path: Path) -> int:
    """Write ballast until nothing more fits; return its bytes."""
    ballast = os.open(path / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while True:
            os.write(ballast, bytes(_PIECE_BYTES))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return os.fstat(ballast).st_size
    finally:
        os.close(ballast)
