"""The model under data parallelism with Megatron's distributed AdamW, whose rates the schedule sets at every step."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.distributed.finalize_model_grads import _update_router_expert_bias, reset_model_temporary_tensors
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.utils import get_model_config

from athanor.recipe.schema import training as schema
from athanor.training.layout import Layout
from athanor.training.proof import MOMENTS
from athanor.training.stopwatch import Part, Stopwatch


class _RefusedError(Exception):
    """The gradient norm was not accepted."""


@dataclass
class Learner:
    """Everything that learns: the model's chunks (data parallel), their optimizer, and where they are computed."""

    chunks: list[DistributedDataParallel]  # one, unless the pipeline is interleaved
    optimizer: ChainedOptimizer
    weight_decay: float
    layout: Layout
    clock: Stopwatch
    gradient_before_reduction: float = math.nan  # `own_gradient` of the last step's run; nan with `overlap`

    @cached_property
    def routers_learn(self) -> bool:
        """Whether no router is frozen: then its bias is, too."""
        routers = [m for chunk in self.chunks for m in chunk.modules() if isinstance(m, TopKRouter)]
        return all(router.weight.requires_grad for router in routers)

    @property
    def config(self) -> Any:
        """Megatron's TransformerConfig."""
        return get_model_config(self.chunks[0])

    def set_rates(self, lr: float) -> None:
        """Learning rate and weight decay of the next update; norms do not decay (`wd_mult`)."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_mult", 1.0)
            group["weight_decay"] = self.weight_decay * group.get("wd_mult", 1.0)

    def update(self, lr: float, accept: Callable[[float], bool]) -> float:
        """Clip and take one step if `accept` likes the gradient norm. Returns the norm before clipping.

        `accept` is called before a weight is touched.
        """
        self.set_rates(lr)
        measure, norm = self.optimizer.get_grad_norm, math.nan

        def judged() -> float:
            nonlocal norm
            norm = float(measure())
            if not accept(norm):
                raise _RefusedError
            return norm

        self.optimizer.get_grad_norm = judged
        try:
            with suppress(_RefusedError):
                self.optimizer.step()
                if self.config.moe_router_enable_expert_bias and self.routers_learn:
                    _update_router_expert_bias(self.chunks, self.config)
            return norm
        finally:
            del self.optimizer.get_grad_norm

    def zero_gradients(self) -> None:
        """Before a run of micro-batches: gradients add up."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        reset_model_temporary_tensors(self.config, self.chunks)  # tokens of each expert, which a router's bias follows

    @contextmanager
    def unreduced(self) -> Iterator[None]:
        """Backward passes leave each rank's own gradient, with overlap, too."""
        config = self.config
        finalize, no_sync = config.finalize_model_grads_func, config.no_sync_func
        config.finalize_model_grads_func, config.no_sync_func = None, nullcontext
        try:
            with ExitStack() as stack:
                for chunk in self.chunks:
                    stack.enter_context(chunk.no_sync())
                yield
        finally:
            config.finalize_model_grads_func, config.no_sync_func = finalize, no_sync

    def own_gradient(self) -> float:
        """L2 norm of what this rank's own samples gave: without experts that are spread over ranks, whose gradients come
        from everyone's."""
        buffers = [buffer for chunk in self.chunks for buffer in chunk.buffers]
        return math.sqrt(sum(float(buffer.grad_data.norm()) ** 2 for buffer in buffers))

    def forget(self) -> None:
        """A fresh optimizer: no moments, no steps."""
        for member in self.optimizer.chained_optimizers:
            member.optimizer.state.clear()
            for group in member.optimizer.param_groups:
                group.pop("step", None)

    def have_moments(self) -> None:
        """Where nothing has been updated yet, the moments that the first update would begin with: a checkpoint wants some."""
        for member in self.optimizer.chained_optimizers:
            state = member.optimizer.state
            for group in member.optimizer.param_groups:
                for weight in group["params"]:
                    if not state[weight]:
                        state[weight] |= {name: torch.zeros_like(weight, dtype=torch.float32) for name in MOMENTS}
                group.setdefault("step", 0)

    def settle(self) -> None:
        """Wait until every rank has the updated weights: with `overlap` they come while the next step computes."""
        if self.layout.parallel.overlap:
            for chunk in self.chunks:
                chunk.start_param_sync(force_sync=True)


@contextmanager
def _biases_untouched(config: Any) -> Iterator[None]:
    """Megatron moves the routers' biases with every reduction of gradients; here with an update, if there is one."""
    enabled, config.moe_router_enable_expert_bias = config.moe_router_enable_expert_bias, False
    try:
        yield
    finally:
        config.moe_router_enable_expert_bias = enabled


def build_learner(model: Sequence[Any], settings: schema.Optimizer, layout: Layout) -> Learner:
    """Spread the chunks of `model` over the data ranks with a fresh optimizer; master weights and moments are float32 and
    sharded."""
    config, overlap = get_model_config(model[0]), layout.parallel.overlap
    spread = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        check_for_nan_in_grad=False,  # the loop checks loss and gradient norm on all ranks at once
    )
    # Of an interleaved pipeline only the first chunk is cut into buckets: the others' traffic overlaps with its work.
    chunks = [DistributedDataParallel(config, spread, m, disable_bucketing=number > 0) for number, m in enumerate(model)]
    if overlap:
        no_sync = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = no_sync if len(chunks) > 1 else no_sync[0]
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=0.0,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_eps=settings.epsilon,
            clip_grad=settings.clip_grad,
            bf16=config.bf16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=True,
            overlap_param_gather=overlap,
        ),
        chunks,
        use_gloo_process_groups=False,  # only checkpoints gathered to one rank need them; ours are sharded
    )
    config.grad_scale_func = optimizer.scale_loss
    learner = Learner(chunks, optimizer, settings.weight_decay, layout, Stopwatch(layout.device))

    def finalize(*arguments: Any, **keys: Any) -> None:
        # With overlap the buffers are being reduced already.
        learner.gradient_before_reduction = math.nan if overlap else learner.own_gradient()
        with learner.clock.part(Part.COMMUNICATION), _biases_untouched(config):
            finalize_model_grads(*arguments, **keys)

    config.finalize_model_grads_func = finalize
    return learner
