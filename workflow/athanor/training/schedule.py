"""Learning rate as a pure function of tokens trained: warm-up, stable, decay (WSD), or warm-up and constant.

Source: Hu et al. 2024 (MiniCPM, WSD); Hägele et al. 2024, equation 1 and section 3 (linear and 1-sqrt decay).
"""

from dataclasses import dataclass

from athanor.recipe.lifecycle import decay_start_tokens
from athanor.recipe.schema import DecayShape, Pretrain


@dataclass(frozen=True)
class LearningRate:
    """All lengths in tokens. A step uses the rate at the tokens trained when it is done."""

    peak: float
    minimum: float
    warmup_tokens: int
    decay_start: int | None  # None: never decays
    decay_tokens: int
    shape: DecayShape

    @classmethod
    def of(cls, settings: Pretrain) -> "LearningRate":
        """The recipe's schedule."""
        return cls(
            settings.lr,
            settings.min_lr,
            settings.warmup_tokens,
            decay_start_tokens(settings),
            settings.decay_tokens,
            settings.decay_shape,
        )

    def __call__(self, tokens: int) -> float:
        """The learning rate at `tokens` trained: from 0 up to the peak, stable, and down to the minimum."""
        if tokens < self.warmup_tokens:
            return self.peak * tokens / self.warmup_tokens
        if self.decay_start is None or tokens <= self.decay_start:
            return self.peak
        done = min(1.0, (tokens - self.decay_start) / self.decay_tokens)
        kept = 1.0 - (done if self.shape is DecayShape.LINEAR else done**0.5)
        return self.minimum + (self.peak - self.minimum) * kept
