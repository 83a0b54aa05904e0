"""What readers take and give: a file by its name inside the source, and a record of named fields."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

OPENERS: dict[str, Callable[..., IO[Any]]] = {
    ".gz": gzip.open,
    ".dz": gzip.open,  # dictzip is gzip with an index in its header
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: its name inside the package or folder (the same on every machine), and where it lies now."""

    name: str
    path: Path


@dataclass(frozen=True)
class Record:
    """One item of a source. `id` is the same wherever and in whatever order it is read."""

    id: str
    fields: Mapping[str, Any]


def open_text(file: SourceFile) -> IO[str]:
    """Open a text file, unpacked by its suffix.

    Bytes that are not UTF-8 become lone surrogates, so that one bad record is found and counted later, where a strict
    decoder would lose the whole file.
    """
    return io.TextIOWrapper(open_bytes(file), encoding="utf-8", errors="surrogateescape", newline="")


def open_bytes(file: SourceFile) -> IO[bytes]:
    """Open a file as bytes, unpacked by its suffix."""
    unpacked: IO[bytes] = OPENERS.get(file.path.suffix, open)(file.path, "rb")
    return unpacked
