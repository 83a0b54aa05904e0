"""Measures a proof (`proof.py`) of a model and optimizer of Megatron's."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate

from athanor.recipe.schema.choices import Precision
from athanor.training.batches import MicroBatch
from athanor.training.objective import Objective
from athanor.training.optimizer import Learner
from athanor.training.proof import MOMENTS, Proof
from athanor.training.step import run_micro_batches


def measure(learner: Learner, objective: Objective, batches: Sequence[MicroBatch], samples: range, precision: Precision) -> Proof:
    """On all ranks together; the weights, the optimizer and the random states stay as they are."""
    with torch.no_grad():
        mine = run_micro_batches(learner, batches, objective, forward_only=True)
    squares, updates = [0.0] * len(MOMENTS), 0
    for member in learner.optimizer.chained_optimizers:
        for weight, state in member.optimizer.state.items():
            if not param_is_not_tensor_parallel_duplicate(weight):
                continue
            for place, name in enumerate(MOMENTS):
                squares[place] += float(state[name].double().square().sum())
        updates = max([updates, *(int(group.get("step", 0)) for group in member.optimizer.param_groups)])
    sums = torch.tensor([mine.loss, mine.tokens, *squares], dtype=torch.float64, device=learner.layout.device)
    dist.all_reduce(sums)
    loss, tokens, *norms = sums.tolist()
    sizes = {**learner.layout.recorded(), "micro_batch": learner.layout.parallel.micro_batch_size}
    device = learner.layout.device.type
    rounding = " ".join([device, *(f"{name}={size}" for name, size in sizes.items())])
    moments = tuple(math.sqrt(norm) for norm in norms)
    return Proof(samples.start, samples.stop, loss / tokens, moments, updates, rounding, precision.value)
