"""The update rules that fine-tuning through DeepSpeed may take, from the libraries that keep them."""

from collections.abc import Sequence
from typing import Any

import torch

from athanor.recipe.schema import Optimizer

Group = dict[str, Any]


def decay_groups(module: torch.nn.Module, weight_decay: float) -> list[Group]:
    """The trained parameters: matrices, which decay, and norms and biases, which do not (as Megatron-Core groups them)."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    matrices = {"params": [weight for weight in trained if weight.dim() > 1], "weight_decay": weight_decay}
    vectors = {"params": [weight for weight in trained if weight.dim() <= 1], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]


def build_optimizer(groups: Sequence[Group], settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's rule over `groups`; the schedule sets the rate before every step."""
    betas = settings.beta1, settings.beta2
    return torch.optim.AdamW(list(groups), lr=0.0, betas=betas, eps=settings.epsilon)
