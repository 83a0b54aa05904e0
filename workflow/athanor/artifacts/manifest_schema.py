"""The JSON schema of the manifest: `python -m athanor.artifacts.manifest_schema > docs/manifest.schema.json`."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import getdoc
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from athanor.artifacts.manifest import SCHEMA_VERSION, Manifest
from athanor.recipe.fingerprint import DIGITS

PATTERNS = {
    "fingerprint": f"^[0-9a-f]{{{DIGITS}}}$",
    "sha256": "^[0-9a-f]{64}$",
    "path": "^(?!/)(?!.*(^|/)\\.\\.(/|$)).+$",  # below the artifact's folder, so that the store can be moved
}
NOT_NEGATIVE = {"bytes", "seconds", "started"}
SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
}


def manifest_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of `manifest.json` and `sealed.json`."""
    body = _object(Manifest)
    body["properties"] = {"schema_version": {"const": SCHEMA_VERSION}, **body["properties"]}
    body["required"] = ["schema_version", *body["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Athanor manifest", **body}


def _object(schema: type) -> dict[str, Any]:
    hints = get_type_hints(schema)
    optional = {f.name for f in fields(schema) if f.default is not MISSING or f.default_factory is not MISSING}
    return {
        "description": getdoc(schema),
        "type": "object",
        "additionalProperties": False,
        "properties": {f.name: _property(f.name, hints[f.name]) for f in fields(schema)},
        "required": [f.name for f in fields(schema) if f.name not in optional],
    }


def _property(name: str, hint: Any) -> dict[str, Any]:
    found = _type(hint)
    if name in PATTERNS:
        found = {**found, "pattern": PATTERNS[name]}
    return {**found, "minimum": 0} if name in NOT_NEGATIVE else found


def _type(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return _object(hint)
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if isinstance(hint, UnionType):
        return {"anyOf": [_type(argument) for argument in arguments]}
    return dict(SCALARS[hint])


if __name__ == "__main__":
    print(json.dumps(manifest_schema(), indent=1))
