"""Answers end to end in windows of one length, as few and as even as they come: Megatron's ranks compute equal shapes."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from athanor.recipe.schema.online import Objective
from athanor.training import policy
from athanor.training.answers import FILLER, Learnable, columns
from athanor.training.batches import MicroBatch, packed_batch
from athanor.training.layout import Layout
from athanor.training.samples import Packed

TILE = 32  # tokens of a window come in whole ones, on every rank that has a part of it: FP8's largest


@dataclass(frozen=True)
class Windows:
    """Of one data rank, a micro-batch each; and the places of their answers, in order, None where there is none."""

    batches: list[MicroBatch]
    places: list[int | None]


def windows(rows: Sequence[Learnable], capacity: int, objective: Objective, layout: Layout, data_rank: int) -> Windows:
    """The windows of a data rank, as many on each; `capacity` tokens at most, which no answer exceeds. None of no rows."""
    if not rows:
        return Windows([], [])
    packed = pack([row.drawn.length for row in rows], capacity, layout.data_ranks * layout.micro_batch_round)
    fullest = max(sum(rows[place].drawn.length for place in one) for one in packed)
    tile = TILE * layout.parallel.tensor
    length = math.ceil((fullest - 1) / tile) * tile
    mine = packed[data_rank :: layout.data_ranks]
    batches = [_window([rows[place] for place in one] or [None], length, objective, layout) for one in mine]
    empty: list[int | None] = [None]
    return Windows(batches, [place for one in mine for place in (one or empty)])


def pack(lengths: Sequence[int], capacity: int, every: int) -> list[list[int]]:
    """Places of `lengths` by window: a multiple of `every` windows, the fewest in which none exceeds `capacity`.

    The longest go first, each where there is least (Graham 1969), so that windows come out nearly even.
    """
    count = every * math.ceil(sum(lengths) / capacity / every)
    while True:
        filled = [(0, number) for number in range(count)]
        found: list[list[int]] = [[] for _ in range(count)]
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            tokens, number = heapq.heappop(filled)
            heapq.heappush(filled, (tokens + lengths[place], number))
            found[number].append(place)
        if max(filled)[0] <= capacity or count >= len(lengths):
            return [sorted(places) for places in found]
        count += every


def _window(rows: Sequence[Learnable | None], length: int, objective: Objective, layout: Layout) -> MicroBatch:
    """`rows` end to end; beside it, where each token of an answer is predicted, and the columns of its loss."""
    drawn = [(FILLER if row is None else row).drawn for row in rows]
    # What fills up repeats the window: one token over and over would go to the same few experts.
    tokens = np.resize(np.concatenate([np.array((*one.prompt, *one.answer), dtype=np.int64) for one in drawn]), length + 1)
    ends = np.cumsum([one.length for one in drawn])
    longest = max(len(one.answer) for one in drawn)
    where = np.zeros((len(rows), longest), dtype=np.int64)
    counts = np.zeros(length + 1, dtype=np.bool_)
    for place, (row, one, end) in enumerate(zip(rows, drawn, ends, strict=True)):
        first = end - len(one.answer)
        where[place, : len(one.answer)] = np.arange(first - 1, end - 1)
        counts[first:end] = row is not None
    if ends[-1] < length + 1:
        ends = np.append(ends, length + 1)
    tensors = columns(rows, longest)
    tensors |= {"where": torch.from_numpy(where), "weights": policy.weights(tensors["counts"], objective)}
    batch = packed_batch(Packed(tokens, counts, ends), True, layout)
    return replace(batch, beside={name: tensor.to(layout.device) for name, tensor in tensors.items()})
