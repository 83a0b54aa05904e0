"""The seam: what is trained through DeepSpeed is a torch module, on batches that follow from positions, by a loss.

Whatever is known only here (how a text becomes a batch, what a pair's loss is) is the caller's; how far, how fast, what is saved
and how it goes on after a kill is the loop's. Nothing here imports DeepSpeed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from athanor.recipe.schema.training import Training, Zero
from athanor.training.failures import Failures
from athanor.training.rounds import LogProbs, Rounds, Weights


@dataclass(frozen=True)
class Batch:
    """A micro-batch: what the module reads, by name, and what each sample weighs in the mean loss of a step.

    Made on the CPU; the loop moves the tensors to the rank's device. The weights must be known without a forward pass: a step's
    are summed over all ranks before the first gradient, so that losses divide by what they should in every layout.
    """

    tensors: Mapping[str, torch.Tensor]
    weights: torch.Tensor  # [samples], float64: tokens that count, or 1 a pair; 0 for one that only fills up

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""
        return Batch({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.weights.to(device))


class BatchReader(Protocol):
    """Batches by the numbers of their samples: a pure function of these, the same on every rank and in every attempt."""

    def batch(self, samples: Sequence[int]) -> Batch:
        """The samples of these numbers, in this order."""
        ...


Loss = Callable[
    [torch.nn.Module, Batch], torch.Tensor
]  # [samples]: of each sample the sum that its weight divides, differentiable
# The same of labels drawn from what the module says, each sample's by its own numbers: what a rule asks that estimates curvature.
SampledLoss = Callable[[torch.nn.Module, Batch, Sequence[np.random.Generator]], torch.Tensor]
Write = Callable[[Weights, Path], None]


@dataclass(frozen=True)
class Measured:
    """Held-out samples 0 … `samples` - 1 of one domain. `bytes`: UTF-8 bytes of what counts in them, 0 where nothing is text."""

    batches: BatchReader
    samples: int
    bytes: int = 0


@dataclass(frozen=True)
class ModuleTask:
    """What is trained, on what, and how far; a sample stands for `settings.sequence_length` tokens in every budget.

    So a step takes `batch_tokens / sequence_length` samples, in micro-batches of `parallel.micro_batch_size`. `batches` and
    `held_out` are called only where something is computed, `failures` by rank 0.
    """

    settings: Training
    zero: Zero
    end_tokens: int  # training ends with the step that reaches them
    module: Callable[[], torch.nn.Module]  # fresh, in float32 on the CPU, equal on all ranks; frozen ones want no gradient
    batches: Callable[[], BatchReader]
    loss: Loss
    held_out: Callable[[], Mapping[str, Measured]]
    write: Write  # called on rank 0 with the trained weights: fills the folder `model/`, which is there and empty
    loss_of: str = "token"  # what a measured loss is the mean of: metrics are called by it, as `nats_per_token`
    held_out_before: Callable[[], Mapping[str, Measured]] | None = None  # what is measured at the beginning, where that is other
    earlier: Path | None = None  # the checkpoint of an earlier point of the same training, which this one goes on from
    sampled_loss: SampledLoss | None = None  # a task without is refused where the rule is Sophia
    domains: tuple[str, ...] = ()  # under which losses are reported while training
    domain: Callable[[BatchReader, int], str] | None = None  # one of them, by a sample's number
    rounds: Rounds | None = None  # where samples are made by the weights that learn from them
    says: Callable[[torch.nn.Module], LogProbs] | None = None  # there
    drop_norms: float = 0.0  # share of steps that are left out, those of the largest gradient norms
    failures: Callable[[], Failures] = field(default=Failures)  # of the machines it was trained on so far
