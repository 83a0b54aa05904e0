"""What changes over training, by tokens trained: the batch, and when the learning rate falls."""

from dataclasses import dataclass

from athanor.recipe.schema.choices import DecayShape, Schedule
from athanor.recipe.schema.training import Training


@dataclass(frozen=True)
class BatchSizes:
    """Tokens a step, by tokens trained."""

    first: int
    switches: tuple[tuple[int, int], ...]  # (from this many tokens trained, tokens a step), rising

    @classmethod
    def of(cls, settings: Training) -> "BatchSizes":
        """The recipe's batch sizes."""
        return cls(settings.batch_tokens, tuple((s.at_tokens, s.batch_tokens) for s in settings.batch_switches))

    @property
    def largest(self) -> int:
        """Of all steps."""
        return max([self.first, *(size for _, size in self.switches)])

    def at(self, tokens: int) -> int:
        """Tokens of the step that begins when `tokens` are trained."""
        size = self.first
        for begin, batch_tokens in self.switches:
            size = batch_tokens if tokens >= begin else size
        return size


@dataclass(frozen=True)
class Decay:
    """When the learning rate begins to fall, over how many tokens, and how."""

    start_tokens: int
    tokens: int
    shape: DecayShape


def decay_of(p: Training) -> Decay | None:
    """The decay at the end of the budget; None where the learning rate never falls."""
    if p.schedule is Schedule.COSINE and p.token_budget > p.warmup_tokens:
        return Decay(p.warmup_tokens, p.token_budget - p.warmup_tokens, DecayShape.COSINE)
    if p.schedule is Schedule.WSD and p.decay_tokens:
        return Decay(p.token_budget - p.decay_tokens, p.decay_tokens, p.decay_shape)
    return None
