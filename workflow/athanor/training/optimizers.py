"""The update rules that fine-tuning through DeepSpeed may take, from the libraries that keep them.

Sources: AdamW, Loshchilov and Hutter 2019; Lion, Chen et al. 2023; Adan, Xie et al. 2022; SophiaG, Liu et al. 2023; Muon, Jordan
et al. 2024, with the update's size matched to AdamW's (Liu et al. 2025); LOMO, Lv et al. 2023; AdaLomo, Lv et al. 2024.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytorch_optimizer
import torch
from sophia_opt import SophiaG
from transformers import PreTrainedModel

from athanor.recipe.schema.choices import OptimizerName
from athanor.recipe.schema.training import Optimizer

Group = dict[str, Any]


def build_optimizer(module: torch.nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The recipe's rule for the trained weights of `module`; the schedule sets the rate before every step."""
    groups, betas = decay_groups(module, settings.weight_decay), (settings.beta1, settings.beta2)
    if settings.name is OptimizerName.LION:
        return pytorch_optimizer.Lion(groups, lr=0.0, betas=betas)
    if settings.name is OptimizerName.ADAN:
        return pytorch_optimizer.Adan(groups, lr=0.0, betas=(*betas, settings.beta3), eps=settings.epsilon, weight_decouple=True)
    if settings.name is OptimizerName.SOPHIA:
        return Sophia(groups, lr=0.0, betas=betas, rho=settings.rho, weight_decay=settings.weight_decay)
    if settings.name is OptimizerName.MUON:
        return MuonAndAdamW(module, settings)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=settings.epsilon)


def build_fused(module: torch.nn.Module, settings: Optimizer) -> Any:
    """A rule that updates in the backward pass: `grad_norm(loss)`, then `fused_backward(loss, lr)`."""
    clip = settings.clip_grad
    if settings.name is OptimizerName.LOMO:
        return pytorch_optimizer.LOMO(module, lr=0.0, clip_grad_norm=clip)
    decay = settings.weight_decay
    return pytorch_optimizer.AdaLOMO(module, lr=0.0, weight_decay=decay, loss_scale=0.0, clip_grad_norm=clip)


def decay_groups(module: torch.nn.Module, weight_decay: float) -> list[Group]:
    """The trained weights: matrices, which decay, and norms and biases, which do not (as Megatron-Core groups them)."""
    return _by_decay((weight for weight in module.parameters() if weight.requires_grad), weight_decay)


def _by_decay(weights: Iterable[torch.Tensor], weight_decay: float) -> list[Group]:
    every = list(weights)
    matrices = {"params": [weight for weight in every if weight.dim() > 1], "weight_decay": weight_decay}
    vectors = {"params": [weight for weight in every if weight.dim() <= 1], "weight_decay": 0.0}
    return [group for group in (matrices, vectors) if group["params"]]


def hidden_matrices(module: torch.nn.Module) -> list[torch.Tensor]:
    """The trained matrices between embedding and output layer."""
    output = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    layers = (part for part in module.modules() if isinstance(part, torch.nn.Linear) and part is not output)
    return [layer.weight for layer in layers if layer.weight.requires_grad and min(layer.weight.shape) > 1]


class Sophia(SophiaG):
    """SophiaG (Liu et al. 2023, algorithm 3), whose estimates come by a step, as all gradients do that DeepSpeed brings.

    Those of an estimate are the mean loss's times the root of B, the number of labels it means over. Squared they are B times
    the mean gradient's square, the Gauss-Newton-Bartlett estimate (algorithm 2). The library multiplies by one B in every update;
    here each estimate brings its own.
    """

    _estimating = False

    @contextmanager
    def estimating(self) -> Iterator[None]:
        """Steps within take gradients into the curvature's moving mean and update no weight."""
        self._estimating = True
        try:
            yield
        finally:
            self._estimating = False

    def step(self, closure: Any = None, bs: int = 1) -> None:
        """One update, or one estimate."""
        if self._estimating:
            self.update_hessian()
        else:
            super().step(closure, bs=bs)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for hidden matrices, AdamW for the rest, as one optimizer whose groups the schedule sets."""

    def __init__(self, module: torch.nn.Module, settings: Optimizer) -> None:
        matrices = hidden_matrices(module)
        those = {id(weight) for weight in matrices}
        rest = _by_decay(
            (weight for weight in module.parameters() if weight.requires_grad and id(weight) not in those), settings.weight_decay
        )
        self._muon = torch.optim.Muon(
            matrices,
            lr=0.0,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(rest, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)
        super().__init__([*matrices, *chain.from_iterable(group["params"] for group in rest)], {})
        self._join()

    def _join(self) -> None:
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]
        self.state = {**self._muon.state, **self._adamw.state}  # type: ignore[assignment]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all."""
        self._muon.step()
        self._adamw.step()
        self._join()

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self._join()


def kept_tensors(optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What an optimizer keeps between steps, by kind; AdaLomo keeps its factors beside the usual place."""
    for state in getattr(optimizer, "state", {}).values():
        yield from ((name, kept) for name, kept in state.items() if isinstance(kept, torch.Tensor))
    for name in ("exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"):
        yield from ((name, kept) for kept in getattr(optimizer, name, {}).values())


def state_bytes(optimizer: Any) -> int:
    """Bytes of what an optimizer keeps between steps."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in kept_tensors(optimizer))
