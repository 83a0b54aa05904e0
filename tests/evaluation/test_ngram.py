"""The n-gram baselines are proper distributions and know what was counted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.evaluation import ngram
from athanor.evaluation.ngram import NgramCounts, NgramModel

VOCABULARY = 7
streams = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=60), max_size=4)


def fitted(token_streams: list[list[int]], vocab_size: int = VOCABULARY) -> NgramModel:
    counts = NgramCounts(vocab_size)
    for stream in token_streams:
        counts.add(np.array(stream, dtype=np.uint16))
    return NgramModel(counts)


@given(streams)
def test_probabilities_sum_to_one_after_any_training(token_streams: list[list[int]]) -> None:
    model = fitted(token_streams)
    every = np.arange(VOCABULARY)
    assert model.unigram(every).sum() == pytest.approx(1)
    for previous in every:
        probabilities = model.bigram(np.full(VOCABULARY, previous), every)
        assert probabilities.sum() == pytest.approx(1)
        assert (probabilities > 0).all()


@given(stream=st.lists(st.integers(0, VOCABULARY - 1), max_size=80), block=st.integers(1, 20))
def test_counts_do_not_depend_on_the_block_size(stream: list[int], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = NgramCounts(VOCABULARY)
        whole.add(np.array(stream, dtype=np.int32))
        patch.setattr(ngram, "BLOCK_TOKENS", block)
        pieces = NgramCounts(VOCABULARY)
        pieces.add(np.array(stream, dtype=np.int32))
    assert (whole.tokens == pieces.tokens).all()
    assert (whole.pairs == pieces.pairs).all()
    assert (whole.pair_counts == pieces.pair_counts).all()


def test_bigram_predicts_a_cycle_and_the_unigram_does_not() -> None:
    loss = fitted([[0, 1, 2, 3] * 200], vocab_size=4).loss(np.array([[0, 1, 2, 3, 0], [2, 3, 0, 1, 2]]))
    assert loss.tokens == 8
    assert loss.unigram == pytest.approx(math.log(4), abs=0.01)
    assert loss.bigram < 0.05


def test_bigram_approaches_the_entropy_of_a_markov_chain() -> None:
    generator = np.random.default_rng(0)
    transition = generator.dirichlet(np.full(VOCABULARY, 0.3), size=VOCABULARY)
    chain = [0]
    for _ in range(20_000):
        chain.append(int(generator.choice(VOCABULARY, p=transition[chain[-1]])))
    train, test = chain[:15_000], np.array(chain[15_000:])
    entropy = -np.log(transition[test[:-1], test[1:]]).mean()
    assert fitted([train]).loss(test[None]).bigram == pytest.approx(entropy, abs=0.01)


def test_unseen_tokens_and_contexts_have_a_finite_loss() -> None:
    loss = fitted([[0, 1, 0, 1]]).loss(np.array([[6, 5, 4]]))
    assert math.isfinite(loss.unigram)
    assert math.isfinite(loss.bigram)


def test_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"token id 9 is not below model\.vocab_size=7"):
        NgramCounts(VOCABULARY).add(np.array([1, 9]))
