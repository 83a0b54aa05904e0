"""One training step: gradients of all micro-batches, one reduction of what all ranks must know, one update."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_utils import clear_aux_losses_tracker, get_moe_layer_wise_logging_tracker

from athanor.training.batches import MicroBatch
from athanor.training.objective import Objective
from athanor.training.optimizer import Learner
from athanor.training.stopwatch import Part


@dataclass(frozen=True)
class Own:
    """What a rank computed of a step by itself, before anything was summed over ranks."""

    loss: float  # nats, summed over its tokens; 0 on all pipeline stages but the last
    gradient: float  # L2 norm; nan where nobody knows

    @property
    def finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient)

    def agrees(self, other: "Own", tolerance: float) -> bool:
        """Whether both runs came to the same; two that are no numbers did."""
        pairs = ((self.loss, other.loss), (self.gradient, other.gradient))
        return all(
            abs(a - b) <= tolerance * abs(a) if math.isfinite(a) and math.isfinite(b) else math.isfinite(a) == math.isfinite(b)
            for a, b in pairs
        )


@dataclass(frozen=True)
class Told:
    """What a rank wants all ranks to know; it goes with the step's sums."""

    stop: bool = False  # it was asked to stop
    save: bool = False  # it is time for a save
    profile: int = 0  # steps to trace from the next one on


@dataclass(frozen=True)
class StepResult:
    """What all ranks know after a step."""

    loss: float  # nats per token
    grad_norm: float  # before clipping
    aux_loss: float  # load balancing, mean over layers and sequences: 1 when perfectly even
    stop: bool  # some rank was asked to stop
    save: bool  # some rank wants a save
    unexpected: str  # what is not as usual, in words: then the step left the weights as they were
    profiled: int  # steps to trace from the next one on
    own: Own
    rows: torch.Tensor | None  # of this rank, as in `Sums`
    counts: torch.Tensor  # of all ranks, on the CPU: what `train_step` was given


@dataclass(frozen=True)
class Sums:
    """What a rank's micro-batches came to."""

    loss: float  # nats; 0 on all pipeline stages but the last, as are the tokens
    tokens: float
    rows: torch.Tensor | None  # [samples, 2], float64: loss and tokens of each; None on all pipeline stages but the last


def train_step(
    learner: Learner,
    batches: Sequence[MicroBatch],
    objective: Objective,
    lr: float,
    told: Told,
    judge: Callable[[float, float], str],
    counts: torch.Tensor,
    most: float = math.inf,
) -> StepResult:
    """Update the weights on this rank's micro-batches, unless loss or gradient norm are unexpected on all ranks together.

    `judge` says what is unexpected of a finite loss and norm, in words, or nothing. What is not finite always is. `counts`
    (float64, any shape, the same on all ranks) is what the model's parts count of the micro-batches: summed with the loss. A
    norm above `most` leaves the weights as they were, and is nothing unexpected.
    """
    learner.zero_gradients()
    clear_aux_losses_tracker()
    with learner.clock.part(Part.COMPUTE):
        sums = run_micro_batches(learner, batches, objective, forward_only=False)
    aux = sum(float(entry["values"].sum()) for name, entry in get_moe_layer_wise_logging_tracker().items() if name != "z_loss")
    mine = [sums.loss, sums.tokens, aux, float(told.stop), float(told.save), float(told.profile)]
    (loss_sum, tokens, aux_sum, stops, saves, profiled), counted = _sum_over_ranks(mine, counts)
    loss, norm = loss_sum / tokens, math.nan
    unexpected = "" if math.isfinite(loss) else f"loss {loss}"

    def accept(norm: float) -> bool:
        nonlocal unexpected
        unexpected = judge(loss, norm) if math.isfinite(norm) else f"gradient norm {norm}"
        return not unexpected and norm <= most

    if not unexpected:
        with learner.clock.part(Part.OPTIMIZER):
            norm = learner.update(lr, accept)
    routed = len(batches) * learner.layout.data_ranks * learner.config.num_layers
    own = Own(sums.loss, learner.gradient_before_reduction)
    return StepResult(loss, norm, aux_sum / routed, stops > 0, saves > 0, unexpected, int(profiled), own, sums.rows, counted)


def idle_step(told: Told, counts: torch.Tensor) -> StepResult:
    """A step that has nothing to learn: ranks tell each other what they want, and nothing decays either."""
    mine = [float(told.stop), float(told.save), float(told.profile)]
    (stops, saves, profiled), counted = _sum_over_ranks(mine, counts)
    return StepResult(0.0, 0.0, 0.0, stops > 0, saves > 0, "", int(profiled), Own(0.0, 0.0), None, counted)


def run_micro_batches(learner: Learner, batches: Sequence[MicroBatch], objective: Objective, *, forward_only: bool) -> Sums:
    """One pass over this rank's micro-batches; gradients add up unless `forward_only`."""

    def forward(batch: Iterator[MicroBatch], model: Any) -> tuple[torch.Tensor, Callable[..., Any]]:
        this = next(batch)

        def reduce(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            total, count = objective.loss(output, this)
            sums = torch.stack([total.detach().double(), count.double()])
            return total.float(), count, {"sums": sums, "rows": objective.by_sample(output.detach(), this)}

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
        return Sums(0.0, 0.0, None)
    total, tokens = torch.stack([report["sums"] for report in reports]).sum(dim=0).tolist()
    return Sums(total, tokens, torch.cat([report["rows"] for report in reports]))


def _sum_over_ranks(values: list[float], counts: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    # Ranks that hold parts of the same model replica add the same loss and the same tokens: ratios stay right.
    vector = torch.cat([torch.tensor(values, dtype=torch.float64, device=counts.device), counts.flatten()])
    dist.all_reduce(vector)
    summed = vector.cpu()
    return summed[: len(values)].tolist(), summed[len(values) :].view_as(counts)
