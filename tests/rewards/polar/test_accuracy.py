"""Accuracy with its interval, and the scores that an untrained model must be beaten by."""

from pathlib import Path

import numpy as np
import pytest

from athanor.rewards.polar.accuracy import accuracy, wins
from athanor.rewards.polar.baselines import Embeddings, bigrams, length


def test_ties_are_half_a_win() -> None:
    assert wins(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])).tolist() == [1.0, 0.5, 0.0]


def test_interval_of_separate_triples_is_the_binomial_one() -> None:
    won = np.random.default_rng(1).random(400) < 0.7
    found = accuracy(won.astype(float), range(400), seed=0)
    half = 1.96 * np.sqrt(found.rate * (1 - found.rate) / 400)
    assert found.rate == won.mean() and found.triples == 400
    assert found.rate - found.low == pytest.approx(half, rel=0.15) and found.high - found.rate == pytest.approx(half, rel=0.15)


def test_interval_counts_groups_not_triples() -> None:
    won = (np.random.default_rng(1).random(100) < 0.7).astype(float)
    alone = accuracy(won, range(100), seed=0)
    fourfold = accuracy(won.repeat(4), np.arange(100).repeat(4).tolist(), seed=0)
    assert (fourfold.rate, fourfold.low, fourfold.high) == pytest.approx((alone.rate, alone.low, alone.high))


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="0 results"):
        accuracy(np.array([]), [], seed=0)


def test_bigrams_and_length_by_hand() -> None:
    assert bigrams([[]], [[1, 2, 3]], [[1, 2, 3]]).tolist() == [0.0]
    assert bigrams([[]], [[1, 2, 3]], [[3, 2, 1]]).tolist() == pytest.approx([-1.0])  # four bigrams, each 1/2 apart
    assert bigrams([[]], [[1, 1, 1]], [[2, 2]]).tolist() == pytest.approx([-np.sqrt(2)])
    assert length([[]], [[1, 2, 3]], [[1]]).tolist() == [-2.0]


def test_embeddings_are_means_over_the_text_alone(dense: Path) -> None:
    import torch
    from transformers import AutoModel

    prefixes, one, two = [[4, 5], [6]], [[7, 8, 9], [10, 11]], [[7, 8, 9], [12, 13]]
    found = Embeddings(dense, padding=1)(prefixes, one, two)
    model = AutoModel.from_pretrained(dense).eval()
    with torch.no_grad():
        states = [model(torch.tensor([[6, *text]])).last_hidden_state[0, 1:].mean(0) for text in (one[1], two[1])]
    assert found[0] == pytest.approx(0, abs=1e-6) and found[1] == pytest.approx(-float((states[0] - states[1]).norm()), rel=1e-4)
