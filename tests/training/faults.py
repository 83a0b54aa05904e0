"""Things that go wrong during training: at a step of the test's choice, or because a cure was taken out."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.artifacts.run import StageRun
from athanor.models import language_model
from athanor.training.batches import MicroBatch
from athanor.training.objective import NextToken
from athanor.training.samples import SampleReader
from athanor.training.sharded_state import Snapshot
from tests.training.program import EVERYWHERE, BitFlip
from tests.training.synthetic import VOCABULARY

DEADLINE_SECONDS = 120
STARTED = "started\n"


class Interrupted:
    """Samples that come no more from a step on: the rank says so in a file, and waits until it is deleted."""

    def __init__(self, samples: SampleReader, stage: StageRun, step: int, samples_a_step: int) -> None:
        self._samples, self._stage = samples, stage
        self._first, self._told = (step - 1) * samples_a_step, False

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index`."""
        if index >= self._first and not self._told:
            self._told = True
            _wait_while(self._stage.folder / f"paused-{self._stage.rank}")
        return self._samples.sample(index)


class Noted:
    """Samples whose numbers are noted in a file, a line each, after a line for the start."""

    def __init__(self, samples: SampleReader, path: Path) -> None:
        self._samples, self._file = samples, path.open("a", buffering=1)
        self._file.write(STARTED)

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index`."""
        self._file.write(f"{index}\n")
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


class Poisoned:
    """Samples of which some begin with a token of their own."""

    def __init__(self, samples: SampleReader, numbers: Collection[int], token: int | None) -> None:
        self._samples, self._numbers, self._token = samples, frozenset(numbers), token

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index`."""
        sample = self._samples.sample(index).copy()
        if index in self._numbers:
            sample[0] = self._token
        return sample


class Broken(NextToken):
    """Next-token loss on a machine with a bit flip, or on data with a poisoned token; one micro-batch a rank and step is assumed.

    A step that is computed again is the same step: the numbers of the samples say which.
    """

    def __init__(self, stage: StageRun, flip: BitFlip | None, poison: int | None, samples: "Counted") -> None:
        self._stage, self._flip, self._poison, self._samples = stage, flip, poison, samples
        self._hooked, self._turned = False, 0

    def forward(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """As the model's own, with the fault."""
        if self._flip and not self._hooked and self._flip.rank in (self._stage.rank, EVERYWHERE):
            self._hooked = True
            module = next(m for name, m in model.named_modules() if name.endswith(self._flip.module))
            module.register_forward_hook(self._turn)
        return super().forward(model, batch)

    def loss(self, output: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """No number where a sample begins with the poisoned token."""
        total, count = super().loss(output, batch)
        if self._poison is not None and bool((batch.tokens[:, 0] == self._poison).any()):
            total = total * torch.nan
        return total, count

    def _turn(self, _module: Any, _inputs: Any, output: Any) -> Any:
        assert self._flip is not None
        due = self._flip.first <= self._samples.step and (self._flip.times is None or self._turned < self._flip.times)
        if not due or not torch.is_grad_enabled():
            return output
        self._turned += 1
        return _with_stuck_bits(output, self._flip.mask)


def _with_stuck_bits(output: Any, mask: int) -> Any:
    """A module's output, whose first number has the bits of `mask` at one."""
    first, *rest = output if isinstance(output, tuple) else (output,)
    bits = torch.zeros(first.shape, dtype=torch.int32)
    bits.view(-1)[0] = mask
    # Through the graph: what comes back is the gradient of the number that the rank believes in.
    first = first + ((first.detach().view(torch.int32) | bits).view(torch.float32) - first.detach())
    return (first, *rest) if isinstance(output, tuple) else first


class Slow(NextToken):
    """Next-token loss on a machine that takes its time."""

    def forward(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """As the model's own, later."""
        time.sleep(0.2)
        return super().forward(model, batch)


class Counted:
    """Samples that know which step is being computed: that of the newest sample that was read."""

    def __init__(self, samples: SampleReader, samples_a_step: int) -> None:
        self._samples, self._a_step, self.step = samples, samples_a_step, 0

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index`."""
        self.step = index // self._a_step + 1
        return self._samples.sample(index)


def _losses_of_the_router_divided(config: Any) -> None:
    cut = config.context_parallel_size * config.tensor_model_parallel_size
    config.moe_aux_loss_coeff /= cut


def _batched_messages(config: Any) -> None:
    config.overlap_p2p_comm, config.batch_p2p_comm = False, True


UNCURED: dict[str, Callable[[Any], None]] = {
    "router losses": _losses_of_the_router_divided,
    "messages between two stages": _batched_messages,
}


def _before_writes(of_step: int, act: Callable[[], None]) -> None:
    write = Snapshot.write

    def acting(snapshot: Snapshot, folder: Path) -> list[str]:
        if int(snapshot.folder.name.split("-")[1].split(".")[0]) >= of_step:
            act()
        return write(snapshot, folder)

    Snapshot.write = acting  # type: ignore[method-assign]


def hold_writes(folder: Path, rank: int, of_step: int) -> None:
    """Have this process's first save, from a step on, say in a file that it is being written, and wait until it is deleted."""
    waits = iter([folder / f"writing-{rank}"])

    def wait_once() -> None:
        for path in waits:
            _wait_while(path)

    _before_writes(of_step, wait_once)


def fail_writes(of_step: int) -> None:
    """Have this process find no room for saves from a step on."""

    def refuse() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _before_writes(of_step, refuse)


def _wait_while(path: Path) -> None:
    """Make the file, and wait until somebody deletes it."""
    path.touch()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


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


def no_constants(name: str) -> float:
    """For `json.loads(parse_constant=…)`: NaN and Infinity are no JSON."""
    raise ValueError(f"{name} is not JSON")


def stick_bits(module: str, mask: int, after: int) -> None:
    """Have this process's arithmetic go wrong for good: from training micro-batch `after` + 1 on, the bits of `mask` are stuck at
    one in a number of the output of the first module whose name ends so."""
    forward, seen = NextToken.forward, {"hooked": False, "micro_batches": 0}

    def counted(objective: NextToken, model: Any, batch: MicroBatch) -> torch.Tensor:
        if not seen["hooked"]:
            seen["hooked"] = True
            next(m for name, m in model.named_modules() if name.endswith(module)).register_forward_hook(broken)
        seen["micro_batches"] += torch.is_grad_enabled()
        return forward(objective, model, batch)

    def broken(_module: Any, _inputs: Any, output: Any) -> Any:
        due = torch.is_grad_enabled() and seen["micro_batches"] > after
        return _with_stuck_bits(output, mask) if due else output

    NextToken.forward = counted  # type: ignore[method-assign]
