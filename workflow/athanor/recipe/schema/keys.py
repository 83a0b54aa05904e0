"""A key of the recipe or of a site: its default, its docstring, its unit and bounds."""

from dataclasses import field
from typing import Any

from athanor.recipe.units import Unit


def key(
    default: Any,
    doc: str,
    *,
    unit: Unit | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    required: bool = False,
    nested: bool = False,
) -> Any:
    """A recipe field: its default, its docstring, and what values are legal.

    `low` and `high` are inclusive bounds, `above` an exclusive one; `required` fields have no usable default. What a `nested`
    one holds may be sections, of sections.
    """
    metadata = {"doc": doc, "unit": unit, "low": low, "high": high, "above": above, "required": required, "nested": nested}
    if isinstance(default, list | dict) or hasattr(default, "__dataclass_fields__"):
        make = (lambda: type(default)()) if not default else (lambda: type(default)(default))
        if hasattr(default, "__dataclass_fields__"):
            make = type(default)
        return field(default_factory=make, metadata=metadata)
    return field(default=default, metadata=metadata)
