"""JSON, JSON lines and tab-separated tables."""

import json
from collections.abc import Iterator
from typing import Any

from athanor.artifacts.run import StageError
from athanor.data.formats.record import Record, SourceFile, open_text
from athanor.recipe.schema.recipe import Source


def read_json(file: SourceFile, _: Source) -> Iterator[Record]:
    """One JSON value: a list of records, or a mapping whose keys become the field `key`."""
    with open_text(file) as text:
        value = _parse(text.read(), file.name)
    if isinstance(value, dict):
        for key, item in value.items():
            yield Record(key, {**_fields(item), "key": key})
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield Record(f"{file.name}:{number}", _fields(item))
    else:
        raise StageError(f"{file.name}: expected a JSON list or mapping of records, found {type(value).__name__}")


def read_jsonl(file: SourceFile, _: Source) -> Iterator[Record]:
    """One JSON record a line; blank lines are passed over."""
    with open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield Record(f"{file.name}:{number}", _fields(_parse(line, f"{file.name}:{number}")))


def read_tsv(file: SourceFile, source: Source) -> Iterator[Record]:
    """A table without quoting. `columns` name its columns; without them the first line does.

    Cells past the named columns are dropped (lists of synonyms of varying length); missing ones are absent fields.
    """
    with open_text(file) as lines:
        columns = list(source.columns) or _cells(next(lines, ""))
        for number, line in enumerate(lines, 1 if source.columns else 2):
            yield Record(f"{file.name}:{number}", dict(zip(columns, _cells(line), strict=False)))


def _cells(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StageError(f"{where}: not JSON ({error}); set the source's format and path to what the file is") from error


def _fields(item: Any) -> dict[str, Any]:
    """A record's fields; a bare string becomes the field `text`."""
    return item if isinstance(item, dict) else {"text": item}
