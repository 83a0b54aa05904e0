"""Files that survive a crash at any instruction: atomic writes, and hashes of what was written."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """One produced file: its path below the artifact's folder, size in bytes and sha256."""

    path: str
    bytes: int
    sha256: str


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` so that `path` holds either the old or the whole new content, also after a power cut.

    Not `durable` is for what is told every few seconds: no disk is waited for, and a power cut may leave the file empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """As write_atomically, as indented JSON with sorted keys."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", durable=durable)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def record_files(folder: Path, names: Iterable[str]) -> tuple[FileRecord, ...]:
    """Records of the files (and all files of the folders) `names` below `folder`, by path. Raises FileNotFoundError."""
    paths = sorted({path for name in names for path in _files_of(folder / name)})
    return tuple(FileRecord(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_of(p)) for p in paths)


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (p for p in path.rglob("*") if p.is_file())
    elif path.is_file():
        yield path
    else:
        raise FileNotFoundError(f"the stage names {path} as a result, but it is not there")


def secure_tree(folder: Path) -> None:
    """Bring every file below `folder` to the disk, and the names that it has there."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
