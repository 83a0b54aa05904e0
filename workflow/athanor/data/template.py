"""Texts made from the fields of a record: `{name_iupac}\\n{smiles}`."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from athanor.artifacts.run import StageError


class Template:
    """Literal text with `{field}` between; `{outer.inner}` reaches into a nested record. `{{` and `}}` are braces."""

    def __init__(self, template: str) -> None:
        """Raises StageError where the template cannot be read or asks for formatting."""
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise StageError(f"template {template!r}: {error}; write {{field}}, and {{{{ for a brace") from error
        self._parts: list[tuple[str, list[str]]] = []
        for literal, name, spec, conversion in parts:
            if name == "" or spec or conversion:
                raise StageError(f"template {template!r}: write plain {{field}}, without position, `!` or `:`")
            self._parts.append((literal, name.split(".") if name else []))

    def fill(self, fields: Mapping[str, Any]) -> str | None:
        """The text; None when a field is absent, null or blank."""
        text = []
        for literal, path in self._parts:
            text.append(literal)
            if path:
                value = _written(_look_up(fields, path))
                if not value.strip():
                    return None
                text.append(value)
        return "".join(text)


def _look_up(fields: Any, path: list[str]) -> Any:
    for name in path:
        fields = fields.get(name) if isinstance(fields, Mapping) else None
    return fields


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "; ".join(filter(None, map(_written, value)))
    return str(value)
