"""What an answer is worth beside being right: whether it reads on without repeating itself, and holds nothing forbidden."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.recipe.schema.post_training import ScoreWeights

REWARDS_FILE = "rewards.jsonl"  # a line an answer, as a reward model scores it
WORDS_ALIKE = 4  # in a row, said a second time, are a repetition


@dataclass(frozen=True)
class Scores:
    """The components, each from 0 to 1."""

    accuracy: float  # 1: a verifier calls it right
    fluency: float  # share of its runs of four words that it says for the first time; 0 where it was cut off or loops
    safety: float  # 1: no forbidden pattern is in it
    reward: float | None = None  # how sure a reward model prefers it to the answer on record; None: none was asked

    def total(self, weights: ScoreWeights) -> float:
        """The weighted sum."""
        by_rule = weights.accuracy * self.accuracy + weights.fluency * self.fluency + weights.safety * self.safety
        return by_rule + weights.reward * (self.reward or 0.0)

    def row(self) -> dict[str, float]:
        """By component, as they are written: without the reward model's where none was asked."""
        return {name: score for name, score in asdict(self).items() if score is not None}


def beside_record(score: float, record: float) -> float:
    """A reward model's raw score of an answer as a component, given its score of the answer on record as a candidate.

    sigma(score - record): by Bradley and Terry's model, how probable it is that the answer beats the record's own text. 1/2 is as
    good as that; raw scores have neither a scale nor a common zero over questions.
    """
    if score >= record:
        return 1.0 / (1.0 + math.exp(record - score))
    odds = math.exp(score - record)
    return odds / (1.0 + odds)


def read_rewards(path: Path) -> dict[tuple[str, int], float]:
    """A reward model's component of each answer, by the conversation's id and the answer's number."""
    with path.open(encoding="utf-8") as lines:
        return {(row["prompt"], row["number"]): row["reward"] for row in map(json.loads, lines)}


class Rules:
    """Scores by rule."""

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
