"""Read plain data into the types of a dataclass, collecting every problem instead of stopping at the first.

OmegaConf stops at its first error; this walk comes before it, so `athanor recipe check` can report all in one go.
"""

import difflib
import math
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from athanor.recipe.problems import Problem
from athanor.recipe.units import UnitError, parse_quantity


def walk(schema: type, data: Any, path: str, problems: list[Problem]) -> dict[str, Any]:
    """Convert the mapping `data` to values `schema` accepts; append what is wrong to `problems`.

    The result holds only keys that were given and are right, nested as in `data`.
    """
    if not isinstance(data, dict):
        problems.append(Problem(path or "(top)", data, f"expected a section with the keys {_some(_names(schema))}"))
        return {}
    known, hints, result = {f.name: f for f in fields(schema)}, get_type_hints(schema), {}
    for name, value in data.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in known:
            problems.append(Problem(where, _brief(value), _unknown(str(name), schema, path)))
            continue
        converted = _convert(hints[name], value, where, known[name], problems)
        if converted is not MISSING:
            result[name] = converted
    for f in fields(schema):
        if f.metadata.get("required") and f.name not in data:
            where = f"{path}.{f.name}" if path else f.name
            problems.append(Problem(where, None, f"is missing: {f.metadata['doc']}"))
    return result


def _convert(hint: Any, value: Any, where: str, spec: Field[Any], problems: list[Problem]) -> Any:
    """`value` as `hint`, or MISSING with a problem recorded."""
    origin = get_origin(hint)
    if hint is Any:
        return _nested(value, where, problems) if spec.metadata.get("nested") else _plain(value, where, problems)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return walk(hint, value, where, problems)
    if origin in (list, dict):
        return _convert_container(hint, value, where, spec, problems)
    try:
        converted = _scalar(hint, value, spec)
    except (ValueError, UnitError) as error:
        problems.append(Problem(where, _brief(value), str(error)))
        return MISSING
    if problem := _out_of_range(converted, spec):
        problems.append(Problem(where, value, problem))
        return MISSING
    return converted


def _convert_container(hint: Any, value: Any, where: str, spec: Field[Any], problems: list[Problem]) -> Any:
    value = _from_text(value)
    inner = get_args(hint)
    if get_origin(hint) is list:
        if not isinstance(value, list):
            problems.append(Problem(where, _brief(value), "expected a list, such as [a, b]"))
            return MISSING
        items = [_convert(inner[0], item, f"{where}[{i}]", spec, problems) for i, item in enumerate(value)]
        return [item for item in items if item is not MISSING]
    if not isinstance(value, dict):
        problems.append(Problem(where, _brief(value), "expected a section of names and values"))
        return MISSING
    entries = {str(k): _convert(inner[1], v, f"{where}.{k}", spec, problems) for k, v in value.items()}
    return {k: v for k, v in entries.items() if v is not MISSING}


def _plain(value: Any, where: str, problems: list[Problem]) -> Any:
    """A value whose type only the reader of the key knows: text, a number, true or false, or a list of them."""
    value = _from_text(value)
    if isinstance(value, str) and isinstance(read := yaml.safe_load(value), int | float):
        value = read  # typed on a command line
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str | int | float) or isinstance(item, float) and not math.isfinite(item):
            problems.append(Problem(where, _brief(value), "expected text, a number, true or false, or a list of them"))
            return MISSING
    return value


def _nested(value: Any, where: str, problems: list[Problem]) -> Any:
    """As _plain, and sections of such values."""
    value = _from_text(value)
    if not isinstance(value, dict):
        return _plain(value, where, problems)
    entries = {str(k): _nested(v, f"{where}.{k}", problems) for k, v in value.items()}
    return {k: v for k, v in entries.items() if v is not MISSING}


def _from_text(value: Any) -> Any:
    """A list or mapping typed on a command line arrives as text."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            return value
    return value


def _scalar(hint: Any, value: Any, spec: Field[Any]) -> Any:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        choices = [member.value for member in hint]
        if value not in choices:
            raise ValueError(f"expected {' | '.join(choices)}{_nearest(str(value), choices)}")
        return str(value)
    if spec.metadata.get("unit") is not None and hint is int:
        return parse_quantity(value, spec.metadata["unit"])
    if hint is bool:
        text = str(value).lower()
        if text not in ("true", "false"):
            raise ValueError("expected true or false")
        return text == "true"
    if hint is int:
        if isinstance(value, bool) or not _reads_as(int, value):
            raise ValueError("expected a whole number")
        return int(str(value).replace("_", ""))
    if hint is float:
        if isinstance(value, bool) or not _reads_as(float, value):
            raise ValueError("expected a number, such as 3e-4")
        return float(value)
    if hint is str:
        if isinstance(value, list | dict) or value is None:
            raise ValueError("expected text")
        if value == "???":  # OmegaConf's mark of a missing value
            raise ValueError("expected text")
        if isinstance(value, bool | float):  # YAML has already turned 1.10 into 1.1 and no into false
            raise ValueError('expected text; put it in quotes, such as "1.10"')
        return str(value)
    raise TypeError(f"the schema uses {hint}, which the walker does not know")


def _reads_as(kind: type, value: Any) -> bool:
    if not isinstance(value, int | float | str) or isinstance(value, float) and kind is int:
        return False
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        return False
    return bool(abs(number) < float("inf"))


def _out_of_range(value: Any, spec: Field[Any]) -> str:
    """Why `value` is out of its field's bounds, or nothing."""
    low, high, above = (spec.metadata.get(k) for k in ("low", "high", "above"))
    if isinstance(value, str | bool):
        return ""
    if (low is not None and value < low) or (high is not None and value > high) or (above is not None and value <= above):
        bounds = [f"at least {low:g}"] if low is not None else [f"above {above:g}"] if above is not None else []
        bounds += [f"at most {high:g}"] if high is not None else []
        return f"must be {' and '.join(bounds)}"
    return ""


def _names(schema: type) -> list[str]:
    return [f.name for f in fields(schema)]


def _unknown(name: str, schema: type, path: str) -> str:
    near = _nearest(name, _names(schema), f"{path}." if path else "")
    return "no such key" + (near or f"; {path or 'the recipe'} has {_some(_names(schema))}")


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _brief(value: Any) -> Any:
    text = str(value)
    return value if len(text) <= 60 else text[:57] + "..."


def schema_of(hint: Any) -> Any:
    """The dataclass inside a hint such as `dict[str, Source]`, or None."""
    if is_dataclass(hint):
        return hint
    if isinstance(hint, types.GenericAlias):
        return next((schema_of(a) for a in get_args(hint) if schema_of(a)), None)
    return None
