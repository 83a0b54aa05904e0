"""Quantities as people write them in a recipe: `5T` tokens, `20MB`, `90min`; parsed to plain integers."""

import re
from decimal import Decimal
from enum import StrEnum


class Unit(StrEnum):
    """What a number in the recipe or the site file counts."""

    TOKENS = "tokens"
    BYTES = "bytes"
    MINUTES = "minutes"
    SECONDS = "seconds"


_TOKENS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SECONDS = {"S": 1, "MIN": 60, "H": 3600, "D": 86400}
_NUMBER = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?)\s*([A-Za-z]*)\s*")

EXAMPLES = {
    Unit.TOKENS: "5T, 400B, 66M or 800_000",
    Unit.BYTES: "20MB, 1.5GB or 512KiB",
    Unit.MINUTES: "90min, 24h or 2d",
    Unit.SECONDS: "30s, 10min or 2h",
}


LARGEST = 2**63 - 1  # what 64-bit counters, and the stores they end up in, can hold


class UnitError(ValueError):
    """A quantity that cannot be read as a whole number of its unit."""


def parse_quantity(value: object, unit: Unit) -> int:
    """Read `value` (a number, or text such as `66M`) as a whole number of `unit`.

    Plain numbers already count the unit itself. Raises UnitError with examples of what would be right.
    """
    wrong = UnitError(f"expected {unit.value}, such as {EXAMPLES[unit]}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    match = _NUMBER.fullmatch(str(value))
    if match is None:
        raise wrong
    number, suffix = Decimal(match[1].replace("_", "")), match[2].upper()
    scale = _scales(unit).get(suffix)
    if scale is None or number.adjusted() > 30:
        raise wrong
    amount = number * scale / (60 if unit is Unit.MINUTES else 1)
    if amount != int(amount):
        raise UnitError(f"expected a whole number of {unit.value}, such as {EXAMPLES[unit]}")
    if amount > LARGEST:
        raise UnitError(f"more {unit.value} than 64 bits can count")
    return int(amount)


def _scales(unit: Unit) -> dict[str, int]:
    """Suffix → factor; the factors of times are seconds."""
    if unit is Unit.TOKENS:
        return _TOKENS
    return {"": 1, **_BYTES} if unit is Unit.BYTES else {"": 60 if unit is Unit.MINUTES else 1, **_SECONDS}


def format_quantity(amount: int, unit: Unit) -> str:
    """Write `amount` the short way that parse_quantity reads back exactly."""
    if unit is Unit.TOKENS:
        scales = _TOKENS
    elif unit is Unit.BYTES:
        scales = {k: v for k, v in _BYTES.items() if "I" not in k}
    else:
        return f"{amount}{'min' if unit is Unit.MINUTES else 's'}"
    for suffix, scale in sorted(scales.items(), key=lambda item: -item[1]):
        if amount and amount % (scale // 100 or 1) == 0 and amount >= scale:
            text = f"{Decimal(amount) / scale:.2f}".rstrip("0").rstrip(".")
            if Decimal(text) * scale == amount:
                return text + suffix
    return f"{amount}{'B' if unit is Unit.BYTES else ''}"
