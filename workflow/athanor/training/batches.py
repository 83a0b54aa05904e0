"""Samples as one forward pass of the Megatron model reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.training.layout import Layout
from athanor.training.samples import PackedSample, Sample


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads; all [batch, seq]. `loss_mask` is 1 where a token's loss counts."""

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor | None = None  # [documents + 1], int32: where packed documents begin and end, 0 first
    longest: int = 0  # of them, in tokens
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what an objective reads of its samples, by name


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
