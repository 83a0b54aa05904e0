"""Online RL as a task of Megatron's loop: answers end to end in windows, and what one costs follows from its advantage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from athanor.recipe.schema.online import Objective, Online
from athanor.training import policy
from athanor.training.answer_windows import windows
from athanor.training.answers import AnswerReader, Drawn, Learnable, answered
from athanor.training.batches import MicroBatch
from athanor.training.layout import Layout
from athanor.training.objective import NextToken
from athanor.training.optimizer import Learner
from athanor.training.step import run_micro_batches

if TYPE_CHECKING:
    from athanor.training.round_weights import RoundWeights  # with transformers, which nothing else here needs

PASSES = 8  # of each data rank, between two lengths of windows


@dataclass(frozen=True)
class OnRounds:
    """What the loop needs beside the rounds, of one learner."""

    batches: "AnswerBatches"
    says: "Says"
    weights: "RoundWeights"


class AnswerBatches:
    """Micro-batches of answers: windows as `windows`, in which `parallel.micro_batch_size` of the longest answers have room."""

    def __init__(self, reader: AnswerReader, settings: Online, layout: Layout) -> None:
        self._reader, self._settings, self._layout = reader, settings, layout

    def batches(self, samples: range, data_rank: int) -> list[MicroBatch]:
        """Those of one data rank; all ranks read all answers that teach, whose lengths decide the windows of all."""
        rows = [row for sample in samples if (row := self._reader.answer(sample)) is not None]
        return windows(rows, capacity_of(self._settings), self._settings.objective, self._layout, data_rank).batches


def capacity_of(settings: Online) -> int:
    """Tokens of a window, at most."""
    return settings.parallel.micro_batch_size * settings.sequence_length


def _new(output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """[samples, longest answer]: log-probabilities, of the model's losses [1, seq]; anything where there is no token."""
    return -output[0].float()[batch.beside["where"]]


class AnswerObjective(NextToken):
    """What answers cost, as `policy.losses`, and what is watched of it between two looks."""

    def __init__(self, settings: Objective) -> None:
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

    def __init__(self, learner: Learner, capacity: int) -> None:
        """`capacity` of a window, in tokens."""
        self._learner, self._capacity = learner, capacity

    def __call__(self, rows: Sequence[Drawn]) -> list[tuple[float, ...]]:
        """On all ranks together, with the same rows."""
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
        asked = [Learnable(row, row.log_probs, 0.0, False, ()) for row in rows]
        mine = windows(asked, self._capacity, Objective(), layout, layout.data_rank)
        width = max(len(row.answer) for row in rows)
        found = run_micro_batches(self._learner, mine.batches, _Saying(width), forward_only=True).rows
        if found is None:
            return []
        pairs = zip(mine.places, found.cpu().tolist(), strict=True)
        return [(place, row[: len(rows[place].answer)]) for place, row in pairs if place is not None]

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
