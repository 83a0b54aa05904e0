"""Which samples each step and each rank trains on: pure functions of the tokens trained and the global sample index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.training.layout import Layout


class PackedSample(Protocol):
    """Documents end to end that must not see each other, and which of their tokens count."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[sequence_length + 1]: inputs are [:-1], targets [1:]."""
        ...

    @property
    def counts(self) -> NDArray[np.bool_]:
        """[sequence_length + 1]: whether a token is learnt to be predicted."""
        ...

    @property
    def ends(self) -> NDArray[np.int64]:
        """Of each document, rising, the last sequence_length + 1."""
        ...


Sample = NDArray[np.int64] | PackedSample  # running text [sequence_length + 1], or packed documents


class SampleReader(Protocol):
    """Training samples by global index: a pure function of the index."""

    def sample(self, index: int) -> Sample:
        """Sample `index`."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads; all [batch, seq]. `loss_mask` is 1 where a token's loss counts."""

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor | None = None  # [documents + 1], int32: where packed documents begin and end, 0 first
    longest: int = 0  # of them, in tokens


def micro_batches_of(samples: range, micro_batch_size: int, data_rank: int, data_ranks: int) -> tuple[tuple[int, ...], ...]:
    """A data rank's micro-batches of a global batch: `samples` are cut into micro-batches, dealt round the ranks.

    So the set of micro-batches does not depend on the number of ranks. Raises ValueError where they do not come out even.
    """
    if len(samples) % (micro_batch_size * data_ranks):
        raise ValueError(f"{len(samples)} samples do not cut into micro-batches of {micro_batch_size} x {data_ranks} ranks")
    starts = range(samples.start + data_rank * micro_batch_size, samples.stop, data_ranks * micro_batch_size)
    return tuple(tuple(range(start, start + micro_batch_size)) for start in starts)


def micro_batch(samples: Sequence[Sample], real: int, layout: Layout) -> MicroBatch:
    """Samples as one forward pass reads them; those from `real` on only fill up and do not count."""
    if isinstance(samples[0], np.ndarray):
        return next_token_batch([sample for sample in samples if isinstance(sample, np.ndarray)], real, layout)
    (sample,) = samples
    return packed_batch(sample, real > 0, layout)  # type: ignore[arg-type]


def packed_batch(sample: PackedSample, is_real: bool, layout: Layout) -> MicroBatch:
    """One packed sample as inputs and targets. The last token of a document is the input of no target that counts."""
    tokens, length = torch.from_numpy(sample.tokens), len(sample.tokens) - 1
    mask = torch.from_numpy(sample.counts[1:].astype(np.float32)) * float(is_real)
    ends = np.unique(np.minimum(np.concatenate([[0], sample.ends]), length)).astype(np.int32)
    parts = (tokens[None, :-1], tokens[None, 1:], mask[None], torch.arange(length)[None])
    inputs, labels, counts, positions = (part.contiguous().to(layout.device) for part in parts)
    longest = int(np.diff(ends).max())
    return MicroBatch(inputs, labels, counts, positions, torch.from_numpy(ends).to(layout.device), longest)


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
    inputs, labels, counts, positions = (part.contiguous().to(layout.device) for part in parts)
    return MicroBatch(inputs, labels, counts, positions)
