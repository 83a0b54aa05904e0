"""What an answer is worth beside being right: whether it reads on without repeating itself, and holds nothing forbidden."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from athanor.recipe.schema.post_training import ScoreWeights

WORDS_ALIKE = 4  # in a row, said a second time, are a repetition


@dataclass(frozen=True)
class Scores:
    """The components, each from 0 to 1."""

    accuracy: float  # 1: a verifier calls it right
    fluency: float  # share of its runs of four words that it says for the first time; 0 where it was cut off or loops
    safety: float  # 1: no forbidden pattern is in it

    def total(self, weights: ScoreWeights) -> float:
        """The weighted sum."""
        return weights.accuracy * self.accuracy + weights.fluency * self.fluency + weights.safety * self.safety


class Rules:
    """Scores by rule; the reward model's are another component, where a recipe has one."""

    def __init__(self, forbidden: Sequence[str]) -> None:
        """`forbidden`: regular expressions that no answer may hold."""
        self._forbidden = [re.compile(pattern) for pattern in forbidden]

    def score(self, text: str, *, right: bool, whole: bool) -> Scores:
        """`whole`: the answer ended by itself."""
        safe = not any(pattern.search(text) for pattern in self._forbidden)
        return Scores(float(right), _fluency(text) if whole else 0.0, float(safe))


def _fluency(text: str) -> float:
    words = text.split()
    runs = [tuple(words[i : i + WORDS_ALIKE]) for i in range(len(words) - WORDS_ALIKE + 1)]
    return len(set(runs)) / len(runs) if runs else float(bool(words))
