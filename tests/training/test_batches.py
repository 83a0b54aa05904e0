"""Which samples a rank trains on follows from the global sample index alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athanor.models.attention_cpu import zigzag_positions
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.training import BatchSwitch, Parallel, Pretrain
from athanor.training.batches import next_token_batch
from athanor.training.layout import Layout
from athanor.training.samples import micro_batches_of


@given(st.integers(0, 10**12), st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 2, 3, 4, 8]))
def test_micro_batches_any_number_of_ranks_same_set(start: int, size: int, per_rank: int, ranks: int) -> None:
    samples = range(start, start + size * per_rank * ranks)
    alone = micro_batches_of(samples, size, 0, 1)
    spread = [batch for rank in range(ranks) for batch in micro_batches_of(samples, size, rank, ranks)]
    assert sorted(spread) == list(alone)
    assert [i for batch in alone for i in batch] == list(samples), "every sample once, in order"


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 30))
def test_micro_batches_uneven_batch_is_refused(size: int, ranks: int, count: int) -> None:
    if count % (size * ranks):
        with pytest.raises(ValueError, match="do not cut"):
            micro_batches_of(range(count), size, 0, ranks)


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**6)), unique_by=lambda pair: pair[0]), st.integers(0, 10**9))
def test_batch_size_is_that_of_the_last_switch_passed(pairs: list[tuple[int, int]], tokens: int) -> None:
    switches = [BatchSwitch(at, size) for at, size in sorted(pairs)]
    passed = [s.batch_tokens for s in switches if s.at_tokens <= tokens]
    assert BatchSizes.of(Pretrain(batch_tokens=7, batch_switches=switches)).at(tokens) == [7, *passed][-1]


def _layout(context: int, rank: int) -> Layout:
    return Layout(Parallel(ranks=context, context=context), rank, context, 0, 1, rank, torch.device("cpu"))


def test_batch_filling_rows_do_not_count() -> None:
    rows = [np.arange(9), np.arange(9)]
    batch = next_token_batch(rows, 1, _layout(1, 0))
    assert torch.equal(batch.labels, batch.tokens + 1)
    assert batch.loss_mask.tolist() == [[1.0] * 8, [0.0] * 8]


@pytest.mark.parametrize("ranks", [2, 4])
def test_batch_context_ranks_together_hold_every_position_once(ranks: int) -> None:
    rows = [np.arange(17), np.arange(17)]
    parts = [next_token_batch(rows, 2, _layout(ranks, rank)) for rank in range(ranks)]
    gathered = torch.cat([part.positions for part in parts], dim=1)
    assert gathered[0].tolist() == zigzag_positions(16 // ranks, ranks).tolist()
    assert torch.equal(gathered, torch.cat([part.tokens for part in parts], dim=1)), "tokens move with their positions"
    assert sorted(gathered[0].tolist()) == list(range(16))
