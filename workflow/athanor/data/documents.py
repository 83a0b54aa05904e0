"""Documents and the gzip JSONL files they are kept in: one {"id", "text", "entity"} a line, always the same bytes."""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HELD_OUT_FILE = "held_out.jsonl.gz"
COMPRESSION_LEVEL = 6  # 9 takes twice as long for 1 % less


@dataclass(frozen=True)
class Document:
    """One text to train on. `entity` is what it is about (a SMILES string, a title); empty where it is about itself."""

    id: str
    text: str
    entity: str

    @property
    def size(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return len(self.text.encode())


def training_file(shard: int, shards: int) -> str:
    """`train-00000-of-00002.jsonl.gz`: the name of one shard of the training documents."""
    return f"train-{shard:05d}-of-{shards:05d}.jsonl.gz"


def documents_file(part: str, shards: int) -> str:
    """The file of a part: a shard's number, or `held_out`."""
    return HELD_OUT_FILE if part == "held_out" else training_file(int(part), shards)


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of one file, in its order."""
    return (Document(**row) for row in read_rows(path))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """What JsonlWriter wrote, line by line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def is_utf8(text: str) -> bool:
    """False for text with lone surrogates: bytes that were not UTF-8, or half of a JSON escape pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class JsonlWriter:
    """Writes one file of dataclasses, a line each, under a temporary name and renames it when the `with` block ends well.

    The gzip header carries neither time nor name, so equal lines give equal bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")

    def __enter__(self) -> Self:
        self._raw = self._partial.open("wb")
        self._gzip = gzip.GzipFile("", "wb", COMPRESSION_LEVEL, self._raw, mtime=0)
        return self

    def write(self, item: Any) -> None:
        """Append a line: a mapping, or the fields of a dataclass."""
        row = asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        self._gzip.write(line.encode() + b"\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gzip.close()
        self._raw.close()
        if error is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink()
