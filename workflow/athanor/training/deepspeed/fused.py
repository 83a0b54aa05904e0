"""One rank that updates while gradients come (LOMO, AdaLomo), so that no two gradients are there at once; without DeepSpeed."""

import math
from pathlib import Path

import torch

from athanor.recipe.schema import training as schema
from athanor.training.optimizers import build_fused

STATE_FILE = "state.pt"


class FusedEngine:
    """As `engine.Engine`, for a step of one micro-batch."""

    def __init__(self, module: torch.nn.Module, optimizer: schema.Optimizer, device: torch.device) -> None:
        self.module = module.to(device).train()
        self.optimizer, self._device = build_fused(self.module, optimizer), device
        self._loss: torch.Tensor | None = None

    def evaluating(self, *, on: bool) -> None:
        """Whether passes are for a measurement alone."""
        self.module.train(not on)

    def begin_pass(self, *, last: bool) -> None:
        """Before the step's one forward pass. Raises ValueError where there is another."""
        if not last:
            raise ValueError("a fused update takes steps of one micro-batch")

    def backward(self, loss: torch.Tensor) -> None:
        """Keep the loss: its gradients come with the update."""
        self._loss = loss.float()

    def step(self, lr: float, most: float = math.inf) -> float:
        """Two backward passes: the norm, for clipping, and the update; none where the norm, which it returns, is no number or
        above `most`."""
        assert self._loss is not None
        loss, self._loss = self._loss, None
        self.optimizer.grad_norm(loss)
        norm = float(torch.stack(self.optimizer.grad_norms).norm())
        if math.isfinite(norm) and norm <= most:
            self.optimizer.fused_backward(loss, lr)
        return norm

    def save(self, folder: Path) -> None:
        """Weights and the optimizer's state."""
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """What `save` left."""
        state = torch.load(folder / STATE_FILE, map_location=self._device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, torch.Tensor]:
        """All parameters, on the CPU."""
        return {name: weight.detach().float().cpu().clone() for name, weight in self.module.named_parameters()}
