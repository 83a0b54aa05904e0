"""Dictionaries in the dictd format: definitions in NAME.dict or NAME.dict.dz, where they lie in NAME.index.

Source: dictd(8) and dictfmt(1): an index line is headword, offset and length in base 64, separated by tabs.
"""

from collections.abc import Iterator
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.data.formats.record import Record, SourceFile, open_bytes
from athanor.recipe.schema.recipe import Source

DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
METADATA = "00-"  # headwords that describe the dictionary itself


def read_dictd(file: SourceFile, _: Source) -> Iterator[Record]:
    """One record a definition: `headword` (the first in the index of all that lead to it) and `text`."""
    if file.path.suffix == ".index":
        return  # read together with its dictionary
    index = _index_of(file.path)
    if not index.is_file():
        raise StageError(f"{file.name}: {index.name} must lie beside it; let the source's path match both: NAME.*")
    with open_bytes(file) as packed:
        definitions = packed.read()
    for (offset, length), headword in _entries(index).items():
        text = definitions[offset : offset + length].decode("utf-8", "surrogateescape").strip()
        yield Record(f"{headword}@{offset}", {"headword": headword, "text": text})


def _index_of(dictionary: Path) -> Path:
    return dictionary.with_name(dictionary.name.removesuffix(".dz").removesuffix(".dict") + ".index")


def _entries(index: Path) -> dict[tuple[int, int], str]:
    """Headword by place; several headwords lead to one definition (`acronical`, `acronycal`)."""
    entries: dict[tuple[int, int], str] = {}
    with index.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            headword, offset, length, *_ = line.rstrip("\n").split("\t")
            if not headword.startswith(METADATA):
                entries.setdefault((_number(offset), _number(length)), headword)
    return entries


def _number(text: str) -> int:
    value = 0
    for digit in text:
        value = value * 64 + DIGITS[digit]
    return value
