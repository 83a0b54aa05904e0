"""One training step: gradients of all micro-batches, one reduction of what all ranks must know, one update."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_utils import clear_aux_losses_tracker, get_moe_layer_wise_logging_tracker

from athanor.artifacts.run import StageError
from athanor.training.batches import MicroBatch
from athanor.training.objective import Objective
from athanor.training.optimizer import Learner


class NonFiniteError(StageError):
    """The loss or the gradient is no number any more."""

    kind = "non-finite loss"


@dataclass(frozen=True)
class StepResult:
    """What all ranks know after a step."""

    loss: float  # nats per token
    grad_norm: float  # before clipping
    aux_loss: float  # load balancing, mean over layers and sequences: 1 when perfectly even
    stop: bool  # some rank was asked to stop
    updated: bool  # False: the step left the weights as they were
    profiled: int  # steps to trace from the next one on


def train_step(
    learner: Learner,
    batches: Sequence[MicroBatch],
    objective: Objective,
    lr: float,
    step: int,
    stop: bool,
    asked: int,
    accept: Callable[[float, float], bool],
) -> StepResult:
    """Update the weights on this rank's micro-batches of step number `step`, if `accept` likes loss and gradient norm.

    `stop` and `asked` are what this rank wants all to know: that it was asked to stop, and for how many profiled steps.
    Raises NonFiniteError, on all ranks and before the weights are touched, when the loss or the gradient norm is not
    finite.
    """
    for chunk in learner.chunks:
        chunk.zero_grad_buffer()
    learner.optimizer.zero_grad()
    clear_aux_losses_tracker()
    sums = run_micro_batches(learner, batches, objective, forward_only=False)
    aux = sum(float(entry["values"].sum()) for name, entry in get_moe_layer_wise_logging_tracker().items() if name != "z_loss")
    told = [sums[0], sums[1], float(stop), float(asked), aux]
    loss_sum, tokens, stops, profiled, aux_sum = _sum_over_ranks(told, learner.layout.device)
    if not math.isfinite(loss_sum):
        raise NonFiniteError(_not_finite(f"the loss of step {step} is {loss_sum}", sums[0], learner.layout.device))

    def judged(norm: float) -> bool:
        if not math.isfinite(norm):
            raise NonFiniteError(_not_finite(f"the gradient norm of step {step} is {norm}", norm, learner.layout.device))
        return accept(loss_sum / tokens, norm)

    norm, updated = learner.update(lr, judged)
    routed = len(batches) * learner.layout.data_ranks * learner.config.num_layers
    return StepResult(loss_sum / tokens, norm, aux_sum / routed, stops > 0, updated, int(profiled))


def run_micro_batches(
    learner: Learner, batches: Sequence[MicroBatch], objective: Objective, *, forward_only: bool
) -> tuple[float, float]:
    """This rank's summed loss and its tokens; (0, 0) on all pipeline stages but the last."""

    def forward(batch: Iterator[MicroBatch], model: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        this = next(batch)

        def reduce(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            total, count = objective.loss(output, this)
            return total.float(), count, {"sums": torch.stack([total.detach().double(), count.double()])}

        return objective.forward(model, this), reduce

    chunks = learner.chunks
    reports = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[iter(batches) for _ in chunks] if len(chunks) > 1 else iter(batches),
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=len(batches),
        seq_length=batches[0].tokens.shape[1] * learner.layout.parallel.context,
        micro_batch_size=batches[0].tokens.shape[0],
        forward_only=forward_only,
    )
    if not reports:  # not the last pipeline stage
        return 0.0, 0.0
    total, tokens = torch.stack([report["sums"] for report in reports]).sum(dim=0).tolist()
    return total, tokens


def _sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    # Ranks that hold parts of the same model replica add the same loss and the same tokens: ratios stay right.
    vector = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(vector)
    total: list[float] = vector.tolist()
    return total


def _not_finite(what: str, mine: float, device: torch.device) -> str:
    """The message, with the ranks whose own value is not finite."""
    each = [torch.zeros(1, dtype=torch.float64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(each, torch.tensor([mine], dtype=torch.float64, device=device))
    ranks = [str(rank) for rank, value in enumerate(each) if not math.isfinite(float(value))]
    return (
        f"{what}, from rank {', '.join(ranks)}. No checkpoint holds it: the next start continues before it. If it comes "
        "back at the same step, lower pretrain.lr or pretrain.optimizer.clip_grad; if not, suspect that rank's machine"
    )
