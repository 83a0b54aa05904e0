"""Identity: a hash over the meaning of what decides a stage's result, the same in every process."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

DIGITS = 16  # 64 bits: a collision among 10^6 artifacts has a chance of 3e-8


class IdentityError(TypeError):
    """A value that cannot be hashed the same in two processes."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of sha256 over the canonical JSON of `identity`. Raises IdentityError."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:DIGITS]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space. Raises IdentityError for what has no single spelling."""
    return json.dumps(plain(value, "identity"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """The leaves of a recipe section by dotted path: `{"model.hidden_size": 128, …}`."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: v for name in value for k, v in flatten(value[name], f"{prefix}.{name}").items()}
    return {prefix: plain(value, prefix)}


def plain(value: Any, where: str) -> Any:
    """`value` (found at `where`) as JSON data. Raises IdentityError for what has no single spelling."""
    if isinstance(value, Enum):
        return plain(value.value, where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise IdentityError(f"{where}={value} has no place in an identity: it is not finite")
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise IdentityError(f"{where} has keys that are not text")
        return {k: plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise IdentityError(f"{where} is a {type(value).__name__}, which does not hash the same in two processes")
