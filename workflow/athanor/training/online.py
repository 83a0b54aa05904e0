"""Online RL as a task of Megatron's loop: answers end to end in one window, and what one costs follows from its advantage."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from athanor.recipe.schema.online import Objective as Settings
from athanor.training import policy
from athanor.training.answers import FILLER, AnswerReader, Drawn, Learnable, answered, columns
from athanor.training.batches import MicroBatch, packed_batch
from athanor.training.layout import Layout
from athanor.training.objective import NextToken
from athanor.training.optimizer import Learner
from athanor.training.samples import Packed, micro_batches_of
from athanor.training.step import run_micro_batches

if TYPE_CHECKING:
    from athanor.training.round_weights import RoundWeights  # with transformers, which nothing else here needs

PASSES = 8  # of each data rank, between two lengths of windows
TILE = 32  # tokens of a window come in whole ones, on every rank that has a part of it: FP8's largest


@dataclass(frozen=True)
class OnRounds:
    """What the loop needs beside the rounds, of one learner."""

    batches: "AnswerBatches"
    says: "Says"
    weights: "RoundWeights"


class AnswerBatches:
    """Micro-batches of answers: `parallel.micro_batch_size` of them end to end, filled up to the step's longest window."""

    def __init__(self, reader: AnswerReader, objective: Settings, layout: Layout) -> None:
        self._reader, self._objective, self._layout = reader, objective, layout

    def batches(self, samples: range, data_rank: int) -> list[MicroBatch]:
        """Those of one data rank; all ranks read all answers, whose lengths decide the windows of all.

        Behind the last that teaches only what fills a round of the pipeline's is read; none where nothing teaches.
        """
        rows = [self._reader.answer(sample) for sample in samples]
        teach = sum(row is not None for row in rows)
        rows = rows[: _whole(teach, self._layout)]
        return windows(rows, self._objective, self._layout, data_rank)


def windows(rows: Sequence[Learnable | None], objective: Settings, layout: Layout, data_rank: int) -> list[MicroBatch]:
    """The micro-batches of a data rank, all of one length. `rows` come out even over ranks and micro-batches."""
    if not rows:
        return []
    size, ranks = layout.parallel.micro_batch_size, layout.data_ranks
    lengths = [(FILLER if row is None else row).drawn.length for row in rows]
    longest = max(sum(lengths[begin : begin + size]) for begin in range(0, len(rows), size))
    tile = TILE * layout.parallel.tensor
    length = math.ceil((longest - 1) / tile) * tile
    dealt = micro_batches_of(range(len(rows)), size, data_rank, ranks)
    return [_window([rows[place] for place in batch], length, objective, layout) for batch in dealt]


def _whole(rows: int, layout: Layout) -> int:
    """As many as `rows` or more, that come out even."""
    every = layout.parallel.micro_batch_size * layout.data_ranks * layout.micro_batch_round
    return math.ceil(rows / every) * every


def _window(rows: Sequence[Learnable | None], length: int, objective: Settings, layout: Layout) -> MicroBatch:
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


def _new(output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """[samples, longest answer]: log-probabilities, of the model's losses [1, seq]; anything where there is no token."""
    return -output[0].float()[batch.beside["where"]]


class AnswerObjective(NextToken):
    """What answers cost, as `policy.losses`, and what is watched of it between two looks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watched = policy.Watched()

    def loss(self, output: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Objective`; the number that it divides by is that of tokens, or of answers where each counts alike."""
        found = answered(_new(output, batch), batch.beside)
        if torch.is_grad_enabled():
            self._watched += policy.watch(found, self._settings)
        return policy.losses(found, self._settings).sum(), batch.beside["weights"].sum().int()

    def by_sample(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Of each answer."""
        losses = policy.losses(answered(_new(output, batch), batch.beside), self._settings)
        return torch.stack([losses.double(), batch.beside["weights"]], dim=1)

    def taken(self) -> policy.Watched:
        """What was watched since the last look."""
        taken, self._watched = self._watched, policy.Watched()
        return taken


class _Saying(NextToken):
    """No loss: what the model says of every token."""

    def __init__(self, width: int) -> None:
        self._width = width

    def by_sample(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """[samples, width], float64: each answer's log-probabilities, then anything."""
        new = _new(output, batch).double()
        return torch.nn.functional.pad(new, (0, self._width - new.shape[1]))


class Says:
    """`LogProbs` of a learner. Weights and random states stay as they are."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def __call__(self, rows: Sequence[Drawn]) -> list[tuple[float, ...]]:
        """On all ranks together, with the same rows; best sorted by length: windows are as long as the longest of a part."""
        layout = self._learner.layout
        part = PASSES * layout.parallel.micro_batch_size * layout.data_ranks * layout.micro_batch_round
        own: dict[int, list[float]] = {}
        with self._evaluating(), torch.no_grad():
            for begin in range(0, len(rows), part):
                own |= {begin + place: values for place, values in self._part(rows[begin : begin + part])}
        everyone: list[dict[int, list[float]]] = [{} for _ in range(dist.get_world_size())]
        if rows:
            dist.all_gather_object(everyone, own if parallel_state.get_tensor_model_parallel_rank() == 0 else {})
        together = {place: values for some in everyone for place, values in some.items()}
        return [tuple(together[place]) for place in range(len(rows))]

    def _part(self, rows: Sequence[Drawn]) -> list[tuple[int, list[float]]]:
        """What this rank measures of them, by place; nothing on all pipeline stages but the last."""
        layout = self._learner.layout
        asked: list[Learnable | None] = [Learnable(row, row.log_probs, 0.0, False, ()) for row in rows]
        filled = [*asked, *[None] * (_whole(len(rows), layout) - len(rows))]
        batches = windows(filled, Settings(), layout, layout.data_rank)
        width = max(len(row.answer) for row in rows)
        found = run_micro_batches(self._learner, batches, _Saying(width), forward_only=True).rows
        if found is None:
            return []
        dealt = micro_batches_of(range(len(filled)), layout.parallel.micro_batch_size, layout.data_rank, layout.data_ranks)
        places = [place for batch in dealt for place in batch]
        pairs = zip(places, found.cpu().tolist(), strict=True)
        return [(place, row[: len(rows[place].answer)]) for place, row in pairs if place < len(rows)]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """As `validate`."""
        self._learner.settle()
        for chunk in self._learner.chunks:
            chunk.eval()
        try:
            yield
        finally:
            for chunk in self._learner.chunks:
                chunk.train()
