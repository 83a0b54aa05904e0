"""The curvature that Sophia asks for: gradients of labels drawn from the model itself, every few steps.

Source: Gauss-Newton-Bartlett, Liu et al. 2023, algorithm 2. A label is drawn by numbers that follow from the recipe's seed, the
step and its sample alone, so the estimate is the same on any number of ranks and in every attempt.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from athanor.artifacts.run import StageError
from athanor.recipe.schema.choices import OptimizerName
from athanor.training.deepspeed.engine import Engine
from athanor.training.deepspeed.task import Batch, ModuleTask, SampledLoss
from athanor.training.errors import NonFiniteError


def refuse_without_labels(task: ModuleTask, where: str) -> None:
    """Raise StageError where the rule asks for labels drawn from the model, and the task of stage `where` cannot draw any."""
    if task.settings.optimizer.name is OptimizerName.SOPHIA and task.sampled_loss is None:
        raise StageError(
            f"{where}: optimizer.name=sophia estimates curvature from labels drawn from the model, and what is trained here has "
            "none to draw; use adamw"
        )


class Curvature:
    """Estimates before the steps 1, k + 1, 2 k + 1, … of `estimate_every_steps` = k, as in algorithm 3."""

    def __init__(self, loss: SampledLoss, every_steps: int, seed: int) -> None:
        self._loss, self._every, self._seed = loss, every_steps, seed

    @classmethod
    def of(cls, task: ModuleTask, seed: int) -> "Curvature | None":
        """What the task's rule asks for."""
        optimizer = task.settings.optimizer
        if optimizer.name is not OptimizerName.SOPHIA or task.sampled_loss is None:
            return None
        return cls(task.sampled_loss, optimizer.estimate_every_steps, seed)

    def is_due(self, steps_done: int) -> bool:
        """Before the next step."""
        return steps_done % self._every == 0

    def estimate(
        self,
        engine: Engine,
        step: int,
        samples: Sequence[Sequence[int]],
        batches: Sequence[Batch],
        weight: float,
    ) -> None:
        """Of the micro-batches `batches` of this rank, whose `samples` are so numbered; `weight`: all ranks' labels that count.

        Called by all ranks together. Weights stay as they are. Raises NonFiniteError.
        """
        for done, (numbers, batch) in enumerate(zip(samples, batches, strict=True), start=1):
            engine.begin_pass(last=done == len(batches))
            losses = self._loss(engine.module, batch, [generator(self._seed, step, number) for number in numbers])
            # Squared, the gradients of a sum over the root of B are B times the squares of the mean's.
            engine.backward(losses.sum() / math.sqrt(max(weight, 1.0)))
        norm = engine.observe()
        if not math.isfinite(norm):
            raise NonFiniteError(f"gradient norm {norm} of labels drawn from the model at step {step}")


def generator(seed: int, step: int, sample: int) -> np.random.Generator:
    """The numbers that draw one sample's labels."""
    key = blake2b(f"{seed}\0{step}\0{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
