"""The order of training samples: pure, prefix-stable, fair by weight, every window once an epoch."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.mixture import BLOCK, Mixture
from athanor.data.token_store import TokenWriter
from athanor.recipe.schema.choices import TokenOrder

LENGTH = 4
WINDOWS = {"a": 37, "b": 300, "c": 5}
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Sources whose tokens say where they come from: 10,000 for each source and then the position."""
    root = tmp_path_factory.mktemp("tokens")
    shards: dict[str, list[Path]] = {}
    for number, (name, windows) in enumerate(WINDOWS.items()):
        tokens = [10_000 * number + i for i in range(windows * LENGTH + 1)]
        halves = [tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]]
        shards[name] = [root / f"{name}-{k}" for k in range(2)]
        for folder, half in zip(shards[name], halves, strict=True):
            folder.mkdir()
            with TokenWriter(folder, 40_000) as writer:
                writer.write([half])
    return shards


def mixture(
    sources: Mapping[str, list[Path]], weights: Mapping[str, float] = WEIGHTS, seed: int = 1, **keys: TokenOrder
) -> Mixture:
    return Mixture({name: sources[name] for name in weights}, weights, LENGTH, seed, **keys)


weight_sets = st.fixed_dictionaries({name: st.floats(0.01, 10) for name in WINDOWS})


def test_sample_is_the_window_it_says(sources: dict[str, list[Path]]) -> None:
    mixed = mixture(sources)
    assert mixed.windows == WINDOWS
    for index in range(300):
        place = mixed.where(index)
        begin = 10_000 * "abc".index(place.source) + place.position * LENGTH
        assert mixed.sample(index).tolist() == list(range(begin, begin + LENGTH + 1))
        assert mixed.sample(index).dtype == np.int64


@settings(max_examples=15, deadline=None)
@given(weights=weight_sets, seed=st.integers(0, 2**31), ranks=st.integers(1, 16), start=st.integers(0, 3 * BLOCK))
def test_order_is_the_same_for_any_number_of_ranks(
    sources: dict[str, list[Path]], weights: dict[str, float], seed: int, ranks: int, start: int
) -> None:
    alone = mixture(sources, weights, seed)
    indices = range(start, start + 64)
    by_rank = {}
    for rank in range(ranks):  # every rank has its own object and asks only for its samples
        own = mixture(sources, weights, seed)
        by_rank.update({index: own.where(index) for index in indices if index % ranks == rank})
    assert [by_rank[index] for index in indices] == [alone.where(index) for index in indices]


@settings(max_examples=15, deadline=None)
@given(weights=weight_sets, seed=st.integers(0, 2**31), small=st.integers(1, 2 * BLOCK), more=st.integers(1, 5 * BLOCK))
def test_order_of_a_longer_run_begins_with_the_shorter_one(
    sources: dict[str, list[Path]], weights: dict[str, float], seed: int, small: int, more: int
) -> None:
    short, long = mixture(sources, weights, seed), mixture(sources, weights, seed)
    long.where(small + more)  # a larger budget was asked for first
    for index in range(max(0, small - 50), small):
        assert long.where(index) == short.where(index)


@settings(max_examples=8, deadline=None)
@given(weights=weight_sets, seed=st.integers(0, 2**31))
def test_every_window_is_used_exactly_once_an_epoch(sources: dict[str, list[Path]], weights: dict[str, float], seed: int) -> None:
    mixed = mixture(sources, weights, seed)
    places = [mixed.where(index) for index in range(BLOCK - 1500, BLOCK + 1500)]  # across a block's end
    for name, windows in WINDOWS.items():
        ours = [place for place in places if place.source == name]
        assert [place.epoch for place in ours] == sorted(place.epoch for place in ours)  # one epoch after the other
        epochs = Counter(place.epoch for place in ours)
        for epoch, count in epochs.items():
            positions = {place.position for place in ours if place.epoch == epoch}
            assert len(positions) == count <= windows
            if epoch not in (min(epochs), max(epochs)):
                assert count == windows


@settings(max_examples=200, deadline=None)
@given(weights=weight_sets, blocks=st.integers(1, 10**9))
def test_shares_at_any_block_are_within_one_sample_of_the_weights(
    sources: dict[str, list[Path]], weights: dict[str, float], blocks: int
) -> None:
    taken = mixture(sources, weights).consumed(blocks * BLOCK)
    total = sum(weights.values())
    assert sum(taken.values()) == blocks * BLOCK
    for name, weight in weights.items():
        assert abs(taken[name] - blocks * BLOCK * weight / total) <= 1 + 1e-6 * blocks  # floats of the test, not of the code


def test_consumed_counts_what_where_says(sources: dict[str, list[Path]]) -> None:
    mixed = mixture(sources)
    for samples in (0, 1, 1000, BLOCK, BLOCK + 1234):
        assert mixed.consumed(samples) == {
            **dict.fromkeys(WINDOWS, 0),
            **Counter(mixed.where(i).source for i in range(samples)),
        }


def test_sources_alternate_inside_a_block(sources: dict[str, list[Path]]) -> None:
    mixed = mixture(sources)
    for start in range(0, BLOCK, 512):
        share = sum(mixed.where(index).source == "a" for index in range(start, start + 512)) / 512
        assert share == pytest.approx(0.5, abs=0.08)  # 3.6 standard deviations


def test_epochs_and_seeds_have_their_own_orders(sources: dict[str, list[Path]]) -> None:
    def positions(seed: int, epoch: int) -> list[int]:
        mixed = mixture(sources, {"b": 1.0}, seed)
        return [mixed.where(index).position for index in range(epoch * 300, (epoch + 1) * 300)]

    assert positions(1, 0) != positions(1, 1)
    assert positions(1, 0) != positions(2, 0)
    assert sorted(positions(1, 0)) == sorted(positions(1, 1)) == list(range(300))


def test_order_of_keys_and_scale_of_weights_do_not_matter(sources: dict[str, list[Path]]) -> None:
    one, other = mixture(sources), mixture(sources, {"c": 2.0, "a": 5.0, "b": 3.0})
    assert [one.where(i) for i in range(500)] == [other.where(i) for i in range(500)]


def test_order_is_the_same_for_ever(sources: dict[str, list[Path]]) -> None:
    mixed = mixture(sources)
    assert [tuple(mixed.where(index)) for index in (0, 1, 2, 5000, 10**12)] == GOLDEN


def test_shuffled_order_has_the_same_tokens_of_each_sample_in_another_order(sources: dict[str, list[Path]]) -> None:
    natural, shuffled = mixture(sources), mixture(sources, order=TokenOrder.SHUFFLED)
    samples = [(natural.sample(i), shuffled.sample(i)) for i in range(200)]
    assert all(np.array_equal(np.sort(a), np.sort(b)) for a, b in samples)
    assert sum(np.array_equal(a, b) for a, b in samples) < 10  # one in 5! = 120 stays as it was
    assert all(np.array_equal(shuffled.sample(i), b) for i, (_, b) in enumerate(samples))


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1 / 4096}, {"a": 1.0, "b": 0.0}, {"a": -1.0, "b": 1.0}, {}])
def test_weights_too_small_are_refused(sources: dict[str, list[Path]], weights: dict[str, float]) -> None:
    with pytest.raises(StageError, match="mixture"):
        mixture(sources, weights)


def test_small_weight_error_names_the_key_and_the_least_weight(sources: dict[str, list[Path]]) -> None:
    with pytest.raises(StageError, match=r"mixture\.b=0\.0002 is 0\.0002 of the mixture.*at least 0\.000488"):
        mixture(sources, {"a": 1.0, "b": 0.0002})


def test_smallest_allowed_weight_gets_its_samples(sources: dict[str, list[Path]]) -> None:
    mixed = mixture(sources, {"a": 2047.0, "b": 1.0})
    assert mixed.consumed(BLOCK) == {"a": BLOCK - 2, "b": 2}


def test_weight_without_tokens_names_the_source(sources: dict[str, list[Path]]) -> None:
    with pytest.raises(StageError, match="names nosuch"):
        Mixture(sources, {"a": 1.0, "nosuch": 1.0}, LENGTH, 0)


def test_negative_index_is_refused(sources: dict[str, list[Path]]) -> None:
    with pytest.raises(ValueError, match="-1"):
        mixture(sources).where(-1)


# Computed once: another order would be another training run.
GOLDEN = [("a", 0, 20), ("b", 0, 209), ("a", 0, 10), ("b", 4, 235), ("b", 1_000_000_000, 195)]
