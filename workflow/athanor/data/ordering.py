"""A shuffle that depends on the documents alone: sorted by a keyed hash of the text, in bounded memory.

Sorting by the hash is a fair shuffle, forgets the order of the files it came from, brings equal texts together (so
duplicates fall out on the way), and a prefix of it is a fair sample.
"""

import hashlib
import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from pathlib import Path

from athanor.data.documents import Document

RUN_BYTES = 256 * 2**20  # text sorted in memory at once; more is merged from sorted files

Keyed = tuple[bytes, str, Document]  # hash of the text, id (the smallest of equal texts comes first), document


def shuffled(
    documents: Iterable[Document], seed: int, scratch: Path, run_bytes: int = RUN_BYTES
) -> Iterator[tuple[Document, bool]]:
    """Every document with whether its text came before, in an order that only the texts and `seed` decide.

    More than `run_bytes` of text is sorted in pieces kept in a private folder below `scratch`.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="sort-") as folder:
        runs: list[Path] = []
        held: list[Keyed] = []
        size = 0
        for document in documents:
            held.append((_key(document.text, seed), document.id, document))
            size += document.size
            if size > run_bytes:
                runs.append(_spill(held, Path(folder) / f"run-{len(runs)}"))
                held, size = [], 0
        held.sort(key=_order)
        previous = b""
        for key, _, document in heapq.merge(*map(_read, runs), held, key=_order):
            yield document, key == previous
            previous = key


def _key(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, key=seed.to_bytes(16, "little"), person=b"order").digest()


def _order(keyed: Keyed) -> tuple[bytes, str]:
    return keyed[0], keyed[1]


def _spill(held: list[Keyed], path: Path) -> Path:
    held.sort(key=_order)
    with path.open("w", encoding="utf-8") as lines:
        for key, _, document in held:
            lines.write(json.dumps([key.hex(), *astuple(document)]) + "\n")
    return path


def _read(path: Path) -> Iterator[Keyed]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            key, *fields = json.loads(line)
            document = Document(*fields)
            yield bytes.fromhex(key), document.id, document
