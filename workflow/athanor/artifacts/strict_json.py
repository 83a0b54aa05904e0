"""JSON as its standard has it, without NaN and infinity: a number that is not finite is written as null and read back as nan."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Line = TypeVar("Line", bound="DataclassInstance")


def finite(value: Any) -> Any:
    """`value` with None for every number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def number(value: float | None) -> float:
    """A number as `finite` left it: nan for None."""
    return math.nan if value is None else float(value)


def line_of(record: "DataclassInstance") -> str:
    """The record as a line of JSON."""
    return json.dumps(finite(asdict(record)), allow_nan=False) + "\n"


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """Every whole line of `path` as a `kind`, which may take fewer fields than the lines have; none where there is no file.

    A kill may have cut the last line. Lines that were written with NaN, before they were strict, are read as well.
    """
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [kind(**{f.name: _value(f.type, line[f.name]) for f in fields(kind) if f.name in line}) for line in lines]


def _value(declared: Any, value: Any) -> Any:
    return number(value) if declared is float else value
