"""What online RL's rounds were like, from the first to the last: how often answers were right, and what was left to learn."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PART = 4  # beginning and end are a quarter of the rounds each, at least one


@dataclass(frozen=True)
class OnlineRounds:
    """Of one model, or a control; a value a round, None where a round had nothing of the kind."""

    model: str
    pass_rate: Sequence[float | None]  # of drawn answers to training prompts that a verifier judges
    entropy: Sequence[float | None]  # nats a token
    learnt_share: Sequence[float | None]  # groups whose rewards were not all the same
    answer_tokens: Sequence[float | None]

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.entropy)


@dataclass(frozen=True)
class HandedOver:
    """A model that another trainer made: by which command, what that called itself, and its own measurements, line by line."""

    model: str
    trainer: str
    version: str
    steps: int
    tokens: int
    measured: Mapping[str, Sequence[float | None]]


def handed_over(model: str, trainer: Mapping[str, str], lines: Sequence[Mapping[str, float]]) -> HandedOver:
    """From what its manifest says of the trainer, and the lines that this told, each with step and tokens."""
    names = dict.fromkeys(name for line in lines for name in line if name not in ("step", "tokens"))
    measured = {name: [_finite(line.get(name)) for line in lines] for name in names}
    steps, tokens = (int(lines[-1][name]) for name in ("step", "tokens"))
    return HandedOver(model, trainer["command"], trainer["version"], steps, tokens, measured)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def rounds_of(model: str, metrics: Sequence[Mapping[str, float]]) -> OnlineRounds:
    """From the metrics of each round."""
    names = ("pass_rate", "entropy", "groups/learnt_share", "answer_tokens")
    return OnlineRounds(model, *([told.get(name) for told in metrics] for name in names))


def from_to(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """The means of the first and the last quarter, of what there is in them."""
    part = max(1, len(values) // PART)
    ends = ([value for value in some if value is not None] for some in (values[:part], values[-part:]))
    begin, end = (statistics.fmean(some) if some else None for some in ends)
    return begin, end
