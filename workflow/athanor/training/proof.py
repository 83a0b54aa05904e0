"""What a checkpoint proves when it is loaded: the loss of its last batch and the size of its moments, measured when it was
saved and again from what the disk gave back, before anything is updated.

Hashes say that the files are those that were written. This says that what was written is the state that was trained, and
that this code, these data and this machine make the same of it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from athanor.artifacts.strict_json import finite, number
from athanor.recipe.schema.choices import Precision

MOMENTS = ("exp_avg", "exp_avg_sq")
# Nats, and shares of a norm. Another layout or a GPU rounds differently; a state of other steps is off by more.
EXACT, ROUNDED, ROUNDED_BF16 = 0.0, 1e-5, 5e-3
OTHER_PRECISION = 0.05  # nats: what was trained in one precision and goes on in another


@dataclass(frozen=True)
class Proof:
    """Measured on all ranks together."""

    first_sample: int
    end_sample: int
    loss: float  # nats a token of these samples with the saved weights
    moments: tuple[float, ...]  # L2 norm of each kind of moment; empty without an optimizer
    updates: int  # that the optimizer has counted
    rounding: str  # measured anew with the same, it comes out the same to the last bit
    precision: str = ""  # of the weights' products; older checkpoints do not say


def contradiction(saved: Proof, found: Proof, kinds: Sequence[str] = MOMENTS) -> str:
    """What does not agree, in words; empty where the checkpoint is what was trained. `kinds`: whose norms `moments` are."""
    tolerance = ROUNDED if found.precision == Precision.FP32 else ROUNDED_BF16
    of_loss = tolerance
    if saved.precision not in ("", found.precision):
        of_loss = OTHER_PRECISION
    elif saved.rounding == found.rounding and saved.rounding.startswith("cpu"):
        tolerance = of_loss = EXACT
    if saved.updates != found.updates:
        return f"its optimizer has made {found.updates} updates, {saved.updates} when it was saved"
    for name, before, now in zip(kinds, saved.moments, found.moments, strict=False):
        if not abs(before - now) <= tolerance * before:
            return f"the norm of its {name} is {now:.9g}, {before:.9g} when it was saved"
    # Neither is a number where the step before the save was left out because its samples give none.
    numbers = math.isfinite(saved.loss) or math.isfinite(found.loss)
    if numbers and not abs(saved.loss - found.loss) <= of_loss:
        samples = f"samples {saved.first_sample} to {saved.end_sample - 1}"
        return f"the loss of {samples} is {found.loss:.9f}, {saved.loss:.9f} when it was saved"
    return ""


def to_record(proof: Proof) -> dict[str, Any]:
    """For `state.json`."""
    record: dict[str, Any] = finite(asdict(proof))
    return record


def from_record(data: dict[str, Any]) -> Proof:
    """As `to_record` and JSON left it."""
    return Proof(**{**data, "loss": number(data["loss"]), "moments": tuple(map(number, data["moments"]))})
