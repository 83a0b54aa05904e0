"""Learning rate as a pure function of tokens trained: warm-up, stable, decay (WSD); warm-up and cosine; or constant.

Source: Hu et al. 2024 (MiniCPM, WSD); Hägele et al. 2024, equation 1 and section 3 (linear and 1-sqrt decay);
Loshchilov and Hutter 2017, equation 5 (cosine, without restarts).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from athanor.recipe.schedules import Decay, decay_of
from athanor.recipe.schema.choices import DecayShape
from athanor.recipe.schema.training import Training

KEPT: dict[DecayShape, Callable[[float], float]] = {  # share of the way from the minimum to the peak, by share of the decay done
    DecayShape.LINEAR: lambda done: 1.0 - done,
    DecayShape.ONE_MINUS_SQRT: lambda done: 1.0 - done**0.5,
    DecayShape.COSINE: lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


@dataclass(frozen=True)
class LearningRate:
    """All lengths in tokens. A step uses the rate at the tokens trained when it is done."""

    peak: float
    minimum: float
    warmup_tokens: int
    decay: Decay | None  # None: never falls

    @classmethod
    def of(cls, settings: Training) -> "LearningRate":
        """The recipe's schedule."""
        return cls(
            settings.lr,
            settings.min_lr,
            settings.warmup_tokens,
            decay_of(settings),
        )

    def __call__(self, tokens: int) -> float:
        """The learning rate at `tokens` trained: from 0 up to the peak, stable, and down to the minimum."""
        if tokens < self.warmup_tokens:
            return self.peak * tokens / self.warmup_tokens
        if self.decay is None or tokens <= self.decay.start_tokens:
            return self.peak
        done = min(1.0, (tokens - self.decay.start_tokens) / self.decay.tokens)
        kept = KEPT[self.decay.shape](done)
        return self.minimum + (self.peak - self.minimum) * kept
