"""The kinds of faults as documentation shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from .fault import Fault


def markdown(kinds: Iterable[type[Fault]]) -> str:
    """Return the table: how each is typed, what happens, what --repair brings about."""
    lines = [f"| `{usage(kind)}` | {_meaning(kind)} | {kind.way_back} |" for kind in kinds]
    return "\n".join(["| fault | what happens | `--repair` |", "|---|---|---|", *lines]) + "\n"


def usage(kind: type[Fault]) -> str:
    """Return how a fault is typed, with its positional arguments."""
    return " ".join([kind.kind, *(field.name.upper() for field in kind.arguments() if is_positional(field))])


def is_positional(field: dataclasses.Field[object]) -> bool:
    """Say whether an argument is typed without its name."""
    return bool(field.metadata["positional"])


def _meaning(kind: type[Fault]) -> str:
    first = (kind.__doc__ or "").splitlines()[0]
    options = [f"`{_option(field)}`: {field.metadata['meaning']}." for field in kind.arguments() if not is_positional(field)]
    return " ".join([first, *options])


def _option(field: dataclasses.Field[object]) -> str:
    name = f"--{field.name.replace('_', '-')}"
    return name if field.default is False else f"{name} {field.default:g}"
