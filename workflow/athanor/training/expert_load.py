"""How evenly tokens are routed: the busiest expert's load over the mean, counted as the routers work."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.moe.router import TopKRouter


class ExpertLoad:
    """Counts the tokens each expert of each layer got in training since the last look."""

    def __init__(self, chunks: Sequence[torch.nn.Module], layers: int, experts: int, device: torch.device) -> None:
        self._counts = torch.zeros(layers, experts, dtype=torch.float64, device=device)
        for module in chain.from_iterable(chunk.modules() for chunk in chunks):
            if isinstance(module, TopKRouter):
                module.register_forward_hook(self._count)

    def _count(self, router: TopKRouter, _inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        if router.training and router.layer_number is not None:
            self._counts[router.layer_number - 1] += output[1].sum(dim=0)

    def take(self) -> float:
        """Busiest over mean of the least even layer; called by all ranks together. Counting starts anew."""
        dist.all_reduce(self._counts)
        uneven = self._counts.max(dim=1).values / self._counts.mean(dim=1).clamp(min=1)
        self._counts.zero_()
        return float(uneven.max())
