"""What the routers do: load of every expert over training, and how decided and how even routing is, counted as they work."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.transformer.moe.router import TopKRouter
from numpy.typing import NDArray

EXPERT_LOAD = "expert_load.npy"
BINS = 64  # of a milestone's tokens: what a picture shows side by side


class RoutingWatch:
    """Counts which experts tokens go to, in training alone, over all ranks.

    The history of a milestone [BINS, layers, experts], from `first_tokens` to `end_tokens`, is part of its checkpoints:
    a run that was killed goes on counting where its checkpoint was.
    """

    def __init__(
        self,
        chunks: Sequence[torch.nn.Module],
        shape: tuple[int, int],
        per_token: int,
        span: tuple[int, int],
        device: torch.device,
    ) -> None:
        """`shape`: layers and experts (0: dense); `per_token`: experts a token is routed to; `span`: first and last tokens."""
        self.counting = True
        self.routers = shape[1] > 0  # dense layers have none: nothing is counted, saved or told
        self._layers, self._experts = shape
        self._per_token, self._span = per_token, span
        self.history: NDArray[np.int64] = np.zeros((BINS, *shape), dtype=np.int64)
        self._seen = np.zeros(shape, dtype=np.int64)  # since the last look
        self._entropy, self._tokens = 0.0, 0.0
        # This rank's of a step, a row a layer: tokens of each expert, then the sum of entropies and the tokens of the layer.
        self.counts = torch.zeros(self._layers, self._experts + 2, dtype=torch.float64, device=device)
        for module in chain.from_iterable(chunk.modules() for chunk in chunks):
            if isinstance(module, TopKRouter):
                self._observe(module)

    def fold(self, summed: torch.Tensor, tokens: int) -> None:
        """After every step: add up what it did, given the sum of `counts` over ranks. `tokens` are trained with it."""
        if not self.routers:
            return
        counts = summed.numpy()
        load = counts[:, : self._experts].astype(np.int64)
        first, last = self._span
        place = (tokens - 1 - first) * BINS // max(1, last - first)
        self.history[min(place, BINS - 1)] += load
        self._seen += load
        self._entropy += float(counts[:, -2].sum())
        self._tokens += float(counts[:, -1].sum())

    def forget_step(self) -> None:
        """A step begins, perhaps once more: what was counted before is not its own."""
        self.counts.zero_()

    def take(self) -> dict[str, float]:
        """Metrics of what was folded since the last look; none of a model without routers."""
        if not self.routers:
            return {}
        metrics = {
            # Busiest expert's tokens over the mean, of the least even layer.
            "expert_load_max_over_mean": float((self._seen.max(axis=1) / np.maximum(1, self._seen.mean(axis=1))).max()),
            "dead_experts": float((self._seen == 0).sum()),  # that got no token, in all layers
            # Of the router's probabilities, nats, mean over tokens and layers; ln(experts) is undecided.
            "router_entropy": self._entropy / max(1.0, self._tokens),
            # Token-to-expert assignments that capacity cut off.
            "dropped_assignments": self._tokens * self._per_token - float(self._seen.sum()),
        }
        self._seen[:] = 0
        self._entropy, self._tokens = 0.0, 0.0
        return metrics

    def save(self, folder: Path) -> None:
        """Into a checkpoint (one rank)."""
        if not self.routers:
            return
        with (folder / EXPERT_LOAD).open("wb") as file:
            np.save(file, self.history)
            file.flush()
            os.fsync(file.fileno())

    def resume(self, checkpoint: Path | None) -> None:
        """Go on from this milestone's own checkpoint; one that has no history starts it."""
        self.history = np.zeros_like(self.history)
        if checkpoint is not None and (checkpoint / EXPERT_LOAD).is_file():
            self.history = np.load(checkpoint / EXPERT_LOAD)

    def _observe(self, router: TopKRouter) -> None:
        assert router.layer_number is not None
        row = self.counts[router.layer_number - 1]
        score: Any = router.gating

        def gating(tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = score(tokens)
            if self._counts(router):
                with torch.no_grad():
                    # With the experts in front: torch's softmax over a short last dimension takes four times as long.
                    log = logits.float().flatten(0, -2).t().contiguous().log_softmax(dim=0)
                    row[-2] -= (log.exp() * log).sum(dtype=torch.float64)
                    row[-1] += log.shape[1]
            return logits

        def assigned(_router: Any, _inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
            if self._counts(router):
                row[:-2] += output[1].sum(dim=0)

        router.gating = gating
        router.register_forward_hook(assigned)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is computed in between is no training."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def _counts(self, router: TopKRouter) -> bool:
        """Not in validation; and where a layer is computed again in the backward pass, only then has it gradients."""
        return self.counting and router.training and torch.is_grad_enabled()
