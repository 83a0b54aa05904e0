"""Which samples each step and each rank trains on: pure functions of the tokens trained and the global sample index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.training.layout import Layout


class SampleReader(Protocol):
    """Training samples by global index: a pure function of the index."""

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index` [sequence_length + 1]: inputs are [:-1], targets [1:]."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads; all [batch, seq]. `loss_mask` is 1 where a token's loss counts."""

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    positions: torch.Tensor


def micro_batches_of(samples: range, micro_batch_size: int, data_rank: int, data_ranks: int) -> tuple[tuple[int, ...], ...]:
    """A data rank's micro-batches of a global batch: `samples` are cut into micro-batches, dealt round the ranks.

    So the set of micro-batches does not depend on the number of ranks. Raises ValueError where they do not come out even.
    """
    if len(samples) % (micro_batch_size * data_ranks):
        raise ValueError(f"{len(samples)} samples do not cut into micro-batches of {micro_batch_size} x {data_ranks} ranks")
    starts = range(samples.start + data_rank * micro_batch_size, samples.stop, data_ranks * micro_batch_size)
    return tuple(tuple(range(start, start + micro_batch_size)) for start in starts)


def next_token_batch(rows: Sequence[NDArray[np.int64]], real_rows: int, layout: Layout) -> MicroBatch:
    """Rows of sequence_length + 1 tokens as inputs and targets; rows from `real_rows` on only fill up and do not count.

    Under context parallelism a rank keeps its two zigzag chunks, r and 2 * ranks - 1 - r, as Transformer Engine wants.
    """
    stacked = torch.from_numpy(np.stack(rows))
    batch, length = stacked.shape[0], stacked.shape[1] - 1
    mask = torch.ones(batch, length)
    mask[real_rows:] = 0
    parts = (stacked[:, :-1], stacked[:, 1:], mask, torch.arange(length).expand(batch, length))
    ranks = layout.parallel.context
    if ranks > 1:
        keep = torch.tensor([layout.context_rank, 2 * ranks - 1 - layout.context_rank])
        parts = tuple(part.reshape(batch, 2 * ranks, -1)[:, keep].reshape(batch, -1) for part in parts)  # type: ignore[assignment]
    return MicroBatch(*(part.contiguous().to(layout.device) for part in parts))
