"""Things that go wrong during training: at a step of the test's choice, or because a cure was taken out."""

import shutil
import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.artifacts.run import StageRun
from athanor.models import language_model
from athanor.training.batches import MicroBatch, SampleReader
from athanor.training.objective import NextToken
from tests.training.synthetic import VOCABULARY

DEADLINE_SECONDS = 120


class Interrupted:
    """Samples that come no more from a step on: the rank says so in a file, and waits until it is deleted."""

    def __init__(self, samples: SampleReader, stage: StageRun, step: int, samples_a_step: int) -> None:
        self._samples, self._stage = samples, stage
        self._first, self._told = (step - 1) * samples_a_step, False

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index`."""
        if index >= self._first and not self._told:
            self._told = True
            paused = self._stage.folder / f"paused-{self._stage.rank}"
            paused.touch()
            deadline = time.monotonic() + DEADLINE_SECONDS
            while paused.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        return self._samples.sample(index)


class Garbled:
    """Samples of which some are noise over the whole vocabulary, as a broken shard would have."""

    def __init__(self, samples: SampleReader, numbers: Collection[int]) -> None:
        self._samples, self._numbers = samples, frozenset(numbers)

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index`."""
        sample = self._samples.sample(index)
        if index in self._numbers:
            sample = np.random.default_rng(index).integers(64, VOCABULARY, sample.shape)
        return sample


class Poisoned(NextToken):
    """Next-token loss that is NaN on the last rank at one step."""

    def __init__(self, stage: StageRun, step: int) -> None:
        self._stage, self._step, self._calls = stage, step, 0

    def loss(self, output: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """One micro-batch a step is assumed."""
        self._calls += torch.is_grad_enabled()
        total, count = super().loss(output, batch)
        if self._calls == self._step and self._stage.rank == self._stage.world_size - 1:
            total = total * torch.nan
        return total, count


def _losses_of_the_router_divided(config: Any) -> None:
    cut = config.context_parallel_size * config.tensor_model_parallel_size
    config.moe_aux_loss_coeff /= cut


def _batched_messages(config: Any) -> None:
    config.overlap_p2p_comm, config.batch_p2p_comm = False, True


UNCURED: dict[str, Callable[[Any], None]] = {
    "router losses": _losses_of_the_router_divided,
    "messages between two stages": _batched_messages,
}


def fill_disk(free: int) -> None:
    """Have this process believe that a disk has `free` bytes left."""
    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda path: usage._replace(free=free)


def let_through(error: str) -> None:
    """Build models without the cure of one of Megatron's silent errors, in this process."""
    cured = language_model.transformer_config

    def uncured(*arguments: Any) -> Any:
        config = cured(*arguments)
        UNCURED[error](config)
        return config

    language_model.transformer_config = uncured
