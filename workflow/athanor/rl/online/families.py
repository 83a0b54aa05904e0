"""The prompts of one task, or of one generator of the registry, and which of them are learnt from."""

from dataclasses import dataclass, field

from athanor.recipe.schema.post_training import PassRateFilter
from athanor.rl.online.prompts import Pooled
from athanor.rl.selection import Kept, keep


@dataclass
class Family:
    """`fitting` are those that say no special token, that no evaluation suite asks, and that leave room for an answer."""

    prompts: int = 0  # in all
    contaminated: int = 0
    too_long: int = 0
    fitting: list[Pooled] = field(default_factory=list)
    special_tokens: int = 0  # whose text, or answer on record, holds the name of one

    @property
    def pass_rates(self) -> dict[str, float]:
        """Of the start, by prompt, where that was measured."""
        return {prompt.id: prompt.pass_rate for prompt in self.fitting if prompt.pass_rate is not None}

    def kept(self, rule: PassRateFilter) -> list[Pooled]:
        """What is learnt from: all that nobody measured, and of the others what `rule` leaves, as offline RL has it."""
        worth = set(self._rated(rule).prompts)
        return [prompt for prompt in self.fitting if prompt.pass_rate is None or prompt.id in worth]

    def counters(self, rule: PassRateFilter) -> dict[str, int]:
        """What became of all."""
        left = {"prompts": self.prompts, "special_tokens": self.special_tokens}
        left |= {"contaminated": self.contaminated, "too_long": self.too_long}
        return {**left, **self._rated(rule).counters(), "kept": len(self.kept(rule))}

    def _rated(self, rule: PassRateFilter) -> Kept:
        rates = self.pass_rates
        return keep(rates, {name for name, rate in rates.items() if rate}, rule)
