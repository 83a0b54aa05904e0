"""Scores survive a round trip, their errors are honest, and comparisons point the right way."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.evaluation.scores import Score, compare_scores, ratio_stderr, read_scores, write_scores
from athanor.recipe.schema.choices import Suite

ACCURACY = Score(Suite.MMLU_DEV, "mmlu_dev", "acc", 0.40, 0.03, 0.25, True, 281)
BITS = Score(Suite.HELD_OUT_PERPLEXITY, "held_out_code", "bits_per_byte", 2.0, 0.06, None, False, 90)


def test_scores_round_trip(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.json", [ACCURACY, BITS])
    assert read_scores(tmp_path / "scores.json") == [ACCURACY, BITS]


def test_compare_scores_states_gain_over_untrained_and_chance_in_standard_errors() -> None:
    (row,) = compare_scores([ACCURACY], [replace(ACCURACY, value=0.24, stderr=0.04)])
    assert row.gain == pytest.approx(0.16)
    assert row.gain_in_stderrs == pytest.approx(0.16 / 0.05)
    assert row.over_chance_in_stderrs == pytest.approx(5)


def test_compare_scores_lower_is_better_gains_by_falling() -> None:
    (row,) = compare_scores([BITS], [replace(BITS, value=4.0, stderr=0.08)])
    assert row.gain == pytest.approx(2.0)
    assert row.gain_in_stderrs == pytest.approx(20)
    assert row.over_chance_in_stderrs is None


def test_compare_scores_without_an_untrained_score_leaves_the_gain_open() -> None:
    (row,) = compare_scores([ACCURACY], [BITS])
    assert (row.untrained, row.gain, row.gain_in_stderrs) == (None, None, None)


def test_compare_scores_without_any_spread_states_no_standard_errors() -> None:
    exact = replace(ACCURACY, stderr=0.0)
    (row,) = compare_scores([exact], [exact])
    assert (row.gain, row.gain_in_stderrs, row.over_chance_in_stderrs) == (0.0, None, None)


def test_ratio_stderr_is_the_spread_of_the_ratio_over_resampled_corpora() -> None:
    generator = random.Random(0)

    def corpus() -> tuple[list[float], list[float]]:
        sizes = [generator.uniform(50, 500) for _ in range(80)]
        return [size * generator.gauss(1.4, 0.2) for size in sizes], sizes

    ratios, errors = [], []
    for _ in range(400):
        losses, sizes = corpus()
        ratios.append(sum(losses) / sum(sizes))
        errors.append(ratio_stderr(losses, sizes))
    mean = sum(ratios) / len(ratios)
    spread = math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / (len(ratios) - 1))
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.1)


@given(st.lists(st.floats(1, 1e4), min_size=2, max_size=30), st.floats(0.1, 10))
def test_ratio_stderr_of_a_constant_rate_is_zero(sizes: list[float], rate: float) -> None:
    assert ratio_stderr([rate * size for size in sizes], sizes) == pytest.approx(0, abs=1e-6)


def test_ratio_stderr_of_one_document_is_zero() -> None:
    assert ratio_stderr([3.0], [2.0]) == 0.0
