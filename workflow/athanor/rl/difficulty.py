"""How difficult questions are, by how often a model answers them right, and which are difficult or easy enough to be left out.

Intern-S1 labels prompts by pass rate. A filter of all tasks together starves the weak ones, whose questions are nearly all hard;
so it is applied task by task, and leaves a floor of each (as `athanor.rl.selection` does to a model's own answers).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from athanor.recipe.schema.choices import Difficulty
from athanor.recipe.schema.post_training import Labels
from athanor.rl.selection import lot

PASS_RATES_FILE, LABELS_FILE, DIFFICULTY_FILE = "pass_rates.jsonl.gz", "labels.jsonl.gz", "difficulty.json"


def level_of(pass_rate: float, rule: Labels) -> Difficulty:
    """The level of a question that is answered right so often."""
    if pass_rate >= rule.easy_from:
        return Difficulty.EASY
    if pass_rate > rule.hard_up_to:
        return Difficulty.MEDIUM
    return Difficulty.HARD if pass_rate else Difficulty.UNSOLVED


@dataclass(frozen=True)
class Graded:
    """The labelled questions of one task."""

    levels: Mapping[str, Difficulty]  # by id
    dropped: frozenset[str]
    spared: int  # kept although of a level that is dropped: the floor

    def count(self, level: Difficulty) -> int:
        """How many questions are of it."""
        return sum(one is level for one in self.levels.values())


def grade(pass_rates: Mapping[str, float], rule: Labels) -> Graded:
    """The level of every question, and which are not learnt."""
    levels = {question: level_of(rate, rule) for question, rate in pass_rates.items()}
    gone = [question for question, level in levels.items() if level in rule.drop]
    missing = max(0, round(rule.floor * len(levels)) - (len(levels) - len(gone)))
    # Among equals an order that has nothing to do with where they stand.
    spared = sorted(gone, key=lambda question: (abs(pass_rates[question] - 0.5), lot(question, 0)))[:missing]
    return Graded(levels, frozenset(gone) - frozenset(spared), len(spared))
