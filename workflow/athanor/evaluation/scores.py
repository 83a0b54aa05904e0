"""Scores with their uncertainty: how they are kept, and how a trained model's compare with an untrained one's."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from athanor.artifacts.files import write_json
from athanor.recipe.schema.choices import Suite

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Score:
    """One metric of one task. `chance` is what guessing gives, None where there is no such thing."""

    suite: Suite
    task: str
    metric: str
    value: float
    stderr: float  # over questions or documents
    chance: float | None
    higher_is_better: bool
    n: int  # questions or documents

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Score":
        """A score from its JSON form."""
        return cls(**{**row, "suite": Suite(row["suite"])})

    @property
    def key(self) -> tuple[str, str, str]:
        """What two models' scores are matched by."""
        return self.suite, self.task, self.metric


@dataclass(frozen=True)
class ScoreRow:
    """A trained model's score beside chance and the untrained model's. Differences are positive where training helped."""

    suite: Suite
    task: str
    metric: str
    value: float
    stderr: float
    untrained: float | None
    untrained_stderr: float | None
    chance: float | None
    higher_is_better: bool
    n: int
    gain: float | None  # over the untrained model, in the metric's own unit
    gain_in_stderrs: float | None  # the same in standard errors of the difference
    over_chance_in_stderrs: float | None


def compare_scores(trained: Iterable[Score], untrained: Iterable[Score]) -> list[ScoreRow]:
    """Each of the trained model's scores beside the untrained model's score of the same task and metric.

    The standard error of the difference is taken as if both models had answered different questions, sqrt(a² + b²).
    They answered the same ones, so it errs on the side of caution.
    """
    before = {score.key: score for score in untrained}
    return [_row(score, before.get(score.key)) for score in trained]


def _row(score: Score, before: Score | None) -> ScoreRow:
    sign = 1.0 if score.higher_is_better else -1.0
    gain = sign * (score.value - before.value) if before else None
    over_chance = None if score.chance is None else sign * (score.value - score.chance)
    return ScoreRow(
        suite=score.suite,
        task=score.task,
        metric=score.metric,
        value=score.value,
        stderr=score.stderr,
        untrained=before.value if before else None,
        untrained_stderr=before.stderr if before else None,
        chance=score.chance,
        higher_is_better=score.higher_is_better,
        n=score.n,
        gain=gain,
        gain_in_stderrs=_in_units(gain, math.hypot(score.stderr, before.stderr) if before else 0.0),
        over_chance_in_stderrs=_in_units(over_chance, score.stderr),
    )


def _in_units(difference: float | None, unit: float) -> float | None:
    """None where there is no difference to state or nothing to measure it by (all answers alike)."""
    return None if difference is None or unit <= 0 else difference / unit


def ratio_stderr(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Standard error of sum(x)/sum(y) over documents, by linearisation (Cochran 1977, Sampling Techniques, eq. 6.13).

    sqrt(n/(n - 1) · sum((x - R·y)²)) / sum(y). A document's loss grows with its length, so this is not the spread of
    the documents' own ratios.
    """
    n, total = len(denominators), math.fsum(denominators)
    if n < 2:
        return 0.0
    ratio = math.fsum(numerators) / total
    squares = math.fsum((x - ratio * y) ** 2 for x, y in zip(numerators, denominators, strict=True))
    return math.sqrt(n / (n - 1) * squares) / total


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """A JSON list of rows."""
    write_json(path, [asdict(score) for score in scores])


def read_scores(path: Path) -> list[Score]:
    """What write_scores wrote."""
    return [Score.from_row(row) for row in json.loads(path.read_text())]
