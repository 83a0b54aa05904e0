"""DeepSpeed, and nothing else of the project knows it: a module spread over data ranks by ZeRO 0 to 3, with its optimizer.

Source of ZeRO: Rajbhandari et al. 2020. Stage 1 spreads the optimizer state over the ranks, 2 the gradients, 3 the weights.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from athanor.recipe.schema import training as schema
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Zero
from athanor.training.world import ON_CPU

if ON_CPU:
    os.environ["DS_ACCELERATOR"] = "cpu"  # what it finds by itself, after a warning on every rank

import deepspeed
from deepspeed.utils import safe_get_full_fp32_param
from deepspeed.utils.logging import logger

from athanor.training.optimizers import Sophia, build_optimizer

QUIET = 1 << 62  # steps between two lines of DeepSpeed's own
RECOVERY_SCRIPTS = ("zero_to_fp32.py", "zero_to_torch.py")  # DeepSpeed leaves them beside a checkpoint


class Engine:
    """Methods are called by all ranks together, within `ranks.connected`."""

    def __init__(
        self, module: torch.nn.Module, optimizer: schema.Optimizer, zero: Zero, precision: Precision, micro_batch_size: int
    ) -> None:
        """`module` is in float32 on the CPU, equal on all ranks; parameters without gradient stay frozen."""
        logger.setLevel(logging.WARNING)
        if ON_CPU:
            # Its shared-memory collectives would be compiled at the first start; gloo does the same, to the same losses.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo" if ON_CPU else "nccl", auto_mpi_discovery=False)
        self._zero, self._bf16, self._clip = zero, precision is Precision.BF16, optimizer.clip_grad
        # Frozen weights of four bits are read and rounded again rather than saved: their scales are no weights.
        self._rounded = any(not weight.is_floating_point() for weight in module.parameters())
        # DeepSpeed clips float32 gradients of stage 0 without telling their norm: there it is done here.
        self._clips_itself = not zero.stage and not self._bf16
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": 1,  # the batch changes while training: the last pass of a step is told below
            "gradient_clipping": 0.0 if self._clips_itself else optimizer.clip_grad,
            "bf16": {"enabled": self._bf16},
            "zero_optimization": _zero_settings(zero),
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # its own is compiled at the first start, and torch's rule is the same
            "steps_per_print": QUIET,
        }
        self.optimizer = build_optimizer(module, optimizer)  # DeepSpeed's are around it
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=self.optimizer, config=config, dist_init_required=False)
        if not zero.stage and self._bf16:
            # Its wrapper has taken a first step of zero gradients, to make room for the moments: the count of steps, and so the
            # corrections of the moments' bias, would be one ahead for good.
            self.optimizer.state.clear()
        self.module: torch.nn.Module = self.engine  # what a loss calls

    def evaluating(self, *, on: bool) -> None:
        """Whether passes are for a measurement alone."""
        self.engine.train(not on)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, a sum over this rank's samples; over ranks they are summed by the last pass of a step."""
        self.engine.backward(loss * dist.get_world_size())  # DeepSpeed means over ranks

    def begin_pass(self, *, last: bool) -> None:
        """Before a forward pass with gradients; `last` of a step?"""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)

    def step(self, lr: float, most: float = math.inf) -> float:
        """Clip and update. Returns the gradient norm before clipping; one that is no number has spoilt the weights.

        A norm above `most` leaves all as it is. That is known before an update under stage 0 in float32 alone; elsewhere
        ValueError is raised.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        if math.isfinite(most):
            if not self._clips_itself:
                raise ValueError("DeepSpeed updates before a norm is known")
            norm = float(torch.nn.utils.get_total_norm([w.grad for w in self._trained() if w.grad is not None]))
            if norm > most:
                self.engine.optimizer.zero_grad()
                return norm
        return self._step(self._clip)

    def observe(self) -> float:
        """Give the gradients to Sophia for its estimate, unclipped, and leave the weights as they are. Returns their norm."""
        if not isinstance(self.optimizer, Sophia):
            raise TypeError(f"{type(self.optimizer).__name__} estimates nothing")
        with self.optimizer.estimating(), self._unclipped():
            return self._step(math.inf)

    def _step(self, clip: float) -> float:
        norm = math.nan
        if self._clips_itself:
            norm = float(torch.nn.utils.clip_grad_norm_(self._trained(), clip))
        self.engine.step()
        return norm if self._clips_itself else float(self.engine.get_global_grad_norm())

    def _trained(self) -> list[torch.nn.Parameter]:
        return [weight for weight in self.engine.module.parameters() if weight.requires_grad]

    @contextmanager
    def _unclipped(self) -> Iterator[None]:
        """DeepSpeed's wrappers clip by an attribute, which all of them have under the same name."""
        wrapper = self.engine.optimizer
        if self._clips_itself:
            yield
            return
        wrapper.clip_grad = 0.0
        try:
            yield
        finally:
            wrapper.clip_grad = self._clip

    def save(self, folder: Path) -> None:
        """Every rank's part of the state as files in the empty `folder`."""
        keys = {"save_latest": False, "exclude_frozen_parameters": self._rounded}
        self.engine.save_checkpoint(str(folder.parent), tag=folder.name, **keys)
        if dist.get_rank() == 0:
            for name in RECOVERY_SCRIPTS:
                (folder.parent / name).unlink(missing_ok=True)

    def load(self, folder: Path) -> None:
        """What `save` left, on as many ranks with the same stage."""
        keys = {"load_lr_scheduler_states": False, "load_module_strict": not self._rounded}
        self.engine.load_checkpoint(str(folder.parent), tag=folder.name, **keys)

    def weights(self) -> dict[str, torch.Tensor]:
        """All parameters whole, in float32, on the CPU, but those of four bits; rank 0's alone are complete under stage 3."""
        whole: dict[str, torch.Tensor] = {}
        masters = self._unsharded_masters()
        for name, weight in self.engine.module.named_parameters():
            if not weight.is_floating_point():
                continue
            if weight in masters:
                full = masters[weight]
            elif weight.requires_grad and self._zero.stage:
                full = safe_get_full_fp32_param(weight)
            else:
                gathered = deepspeed.zero.GatheredParameters([weight]) if self._zero.stage == 3 else nullcontext()
                with gathered:
                    full = weight.detach().clone()
            whole[name] = full.detach().float().cpu().clone()
        return whole

    def _unsharded_masters(self) -> Mapping[torch.Tensor, torch.Tensor]:
        """The float32 copies of bf16 weights that stage 0 keeps whole."""
        if self._zero.stage or not self._bf16:
            return {}
        pairs = zip(self.engine.optimizer.fp16_groups, self.engine.optimizer.fp32_groups, strict=True)
        return {low: full for lows, fulls in pairs for low, full in zip(lows, fulls, strict=True)}


def _zero_settings(zero: Zero) -> dict[str, Any]:
    settings: dict[str, Any] = {"stage": zero.stage}
    if zero.offload:
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": not ON_CPU}
    return settings
