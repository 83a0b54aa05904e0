"""Pairs of steps in the same processes, ours and a bare Megatron-Core one, and what a save stalls: for `training.py`.

Both models are built alike from the same weights and live side by side; each pair trains the same samples, in an order drawn
at random. Ours is the step of `athanor stage pretrain` with all that it does beside training (reading, judging spikes, counting
routes, the curve, metrics). The bare one is what Megatron-LM's `train_step` does, on tensors that lie ready: zero the
gradients, run the micro-batches, update, and bring the loss together over ranks.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from training_rank import MarkovSamples, Marks, Order

from athanor.artifacts.run import StageRun
from athanor.models.language_model import build_language_model  # first: it stands in for CUDA on a CPU
from athanor.training.batches import MicroBatch, next_token_batch
from athanor.training.checkpoints import FINAL
from athanor.training.layout import Layout, process_groups
from athanor.training.loop import MilestoneRun
from athanor.training.optimizer import Learner, build_learner
from athanor.training.samples import micro_batches_of
from athanor.training.sharded_state import load_weights
from athanor.training.task import Task

from megatron.core.distributed import finalize_model_grads  # isort: skip
from megatron.core.pipeline_parallel import get_forward_backward_func  # isort: skip

SAVES = 5


def run_pairs(order: Order, rank: int) -> None:
    """Run one rank; rank 0 writes `result.json`: seconds of each pair, ours and bare, and what saves stalled and took."""
    recipe, chance = order.recipe, random.Random(order.seed)
    p = recipe.pretrain
    a_step = p.batch_tokens // p.sequence_length
    samples = MarkovSamples(recipe.model.vocab_size, p.sequence_length, (order.steps + 200) * a_step, order.seed)
    with process_groups(p.parallel, recipe.seed) as layout:
        marks = Marks(0)
        stage = StageRun(recipe, "pretrain", "", "", order.folder, {}, rank, p.parallel.ranks, spool=marks)
        task = Task(p, order.weights / FINAL, (order.steps + 1000) * p.batch_tokens, lambda: samples, lambda: {})
        ours, bare = MilestoneRun(stage, task, layout, _learner(order, layout)), _learner(order, layout)
        load_weights(bare, order.weights / FINAL)
        bare.config.finalize_model_grads_func = finalize_model_grads  # without what ours measures there
        pairs = []
        for step in range(order.steps):
            ready = _batches(samples, range(step * a_step, (step + 1) * a_step), p.parallel.micro_batch_size, layout)
            lr = ours.rate((step + 1) * p.batch_tokens)

            def bare_step(ready: list[MicroBatch] = ready, lr: float = lr) -> None:
                _bare_step(bare, ready, lr)

            turns: list[tuple[str, Callable[[], None]]] = [("ours", lambda: ours.one_step({})), ("bare", bare_step)]
            chance.shuffle(turns)
            pairs.append({name: _timed(turn) for name, turn in turns})
        stalls = {"in the background": _saves(ours, marks)}
        p.checkpoint.asynchronous = False
        stalls["waited for"] = _saves(ours, marks)
    if rank == 0:
        (order.folder / "result.json").write_text(json.dumps({"pairs": pairs, "stalls": stalls}))


def _saves(ours: MilestoneRun, marks: Marks) -> list[dict[str, float]]:
    """What saves cost, in seconds, while training goes on."""
    marks.saves.clear()
    for _ in range(SAVES):
        ours.save()
        while ours.saver.is_busy:
            ours.one_step({})
    return list(marks.saves)


def _learner(order: Order, layout: Layout) -> Learner:
    p = order.recipe.pretrain
    return build_learner(build_language_model(order.recipe.model, p.parallel, p.precision), p.optimizer, layout)


def _batches(samples: MarkovSamples, numbers: range, size: int, layout: Layout) -> list[MicroBatch]:
    mine = micro_batches_of(numbers, size, layout.data_rank, layout.data_ranks)
    return [next_token_batch([samples.sample(i) for i in batch], size, layout) for batch in mine]


def _bare_step(learner: Learner, batches: list[MicroBatch], lr: float) -> None:
    def loss(output: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        total, count = (output * mask).sum(), mask.sum().int()
        return total, count, {"sums": torch.stack([total.detach(), count.float()])}

    def forward(iterator: Iterator[MicroBatch], model: Any) -> tuple[torch.Tensor, Any]:
        batch = next(iterator)
        return model(batch.tokens, batch.positions, None, labels=batch.labels), partial(loss, mask=batch.loss_mask)

    learner.zero_gradients()
    reports = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=iter(batches),
        model=learner.chunks[0],
        num_microbatches=len(batches),
        seq_length=batches[0].tokens.shape[1],
        micro_batch_size=batches[0].tokens.shape[0],
        forward_only=False,
    )
    learner.set_rates(lr)
    learner.optimizer.step()
    dist.all_reduce(torch.stack([report["sums"] for report in reports]).sum(dim=0))


def _timed(turn: Callable[[], None]) -> float:
    """Seconds, from when all ranks are ready."""
    dist.barrier()
    began = time.perf_counter()
    turn()
    return time.perf_counter() - began
