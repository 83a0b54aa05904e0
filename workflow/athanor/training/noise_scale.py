"""The gradient noise scale B_simple: the batch size, in tokens, beyond which larger batches help little.

From the squared gradient norms of a small and a large batch (McCandlish et al. 2018, appendix A.1):

    |G|^2 = (B_big |G_big|^2 - B_small |G_small|^2) / (B_big - B_small)
    S     = (|G_small|^2 - |G_big|^2) / (1 / B_small - 1 / B_big),    B_simple = S / |G|^2

The large batch is the step's, the small one a rank's first micro-batch (of an interleaved pipeline a round of them),
averaged over data ranks. It costs a forward and a backward pass of that micro-batch each time. Measured on the weights that
every data rank holds, without the experts' where those are spread over ranks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate

from athanor.training.batches import MicroBatch
from athanor.training.objective import Objective
from athanor.training.optimizer import Learner
from athanor.training.step import run_micro_batches

SMOOTHING = 0.9  # of both estimates from one measurement to the next: each alone is noisy, and their ratio more so


class NoiseScale:
    """Estimates over a run; they begin anew with each attempt, since nothing depends on them."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._small: tuple[float, float] | None = None  # tokens and squared norm
        self._noise, self._signal, self._weight = 0.0, 0.0, 0.0

    def measure_small(self, batches: Sequence[MicroBatch], objective: Objective) -> None:
        """Before a step, on all ranks together: the gradient of the first micro-batch. Gradients are zero afterwards."""
        learner, layout = self._learner, self._learner.layout
        first = batches[: layout.micro_batch_round]
        learner.zero_gradients()
        with learner.unreduced():
            run_micro_batches(learner, first, objective, forward_only=False)
        square = sum(
            float(weight.main_grad.float().square().sum())
            for chunk in learner.chunks
            for weight in chunk.parameters()
            if _is_everywhere(weight)
        )
        copies = layout.data_ranks * layout.parallel.context
        # Ranks of one replica read the same tokens: the sum over all ranks counts each pipeline and tensor rank's.
        tokens = sum(float(batch.loss_mask.sum()) for batch in first)
        sums = torch.tensor([square, tokens], dtype=torch.float64, device=layout.device)
        dist.all_reduce(sums)
        small_tokens = float(sums[1]) / layout.world_size
        self._small = small_tokens, float(sums[0]) / copies / small_tokens**2
        learner.zero_gradients()

    def measure_big(self, tokens: float) -> float | None:
        """When the step's gradients (means over `tokens`) are ready and not yet clipped: B_simple in tokens, smoothed.

        None where the step's batch is no larger than the small one, or the estimate of the signal is not positive yet.
        """
        if self._small is None:
            return None
        square = torch.zeros((), dtype=torch.float64, device=self._learner.layout.device)
        for member in self._learner.optimizer.chained_optimizers:
            for weight, shard in _shards(member):
                if _is_everywhere(weight) and shard.grad is not None:
                    square += shard.grad.double().square().sum()
        dist.all_reduce(square)
        (small_tokens, small_square), self._small = self._small, None
        if tokens <= small_tokens:
            return None
        signal, noise = estimates(small_tokens, small_square, tokens, float(square))
        self._signal = SMOOTHING * self._signal + (1 - SMOOTHING) * signal
        self._noise = SMOOTHING * self._noise + (1 - SMOOTHING) * noise
        return self._noise / self._signal if self._signal > 0 else None


def estimates(small_tokens: float, small_square: float, big_tokens: float, big_square: float) -> tuple[float, float]:
    """Unbiased estimates of |G|^2 and of S, the trace of the gradient's covariance by token."""
    signal = (big_tokens * big_square - small_tokens * small_square) / (big_tokens - small_tokens)
    noise = (small_square - big_square) / (1 / small_tokens - 1 / big_tokens)
    return signal, noise


def _is_everywhere(weight: Any) -> bool:
    """Held by every data rank, and counted once among tensor ranks; those that sequence parallelism sums later are left
    out (norms and router: few)."""
    if not weight.requires_grad or not getattr(weight, "allreduce", True):
        return False
    return not getattr(weight, "sequence_parallel", False) and param_is_not_tensor_parallel_duplicate(weight)


def _shards(optimizer: Any) -> Iterator[tuple[Any, Any]]:
    """Each weight of the model with this rank's share of its float32 master copy, which has the gradient."""
    models = (optimizer.model_float16_groups, optimizer.model_fp32_groups)
    shards = (optimizer.shard_fp32_from_float16_groups, optimizer.shard_fp32_groups)
    for model_groups, shard_groups in zip(models, shards, strict=True):
        for weights, parts in zip(model_groups, shard_groups, strict=True):
            yield from zip(weights, parts, strict=True)
