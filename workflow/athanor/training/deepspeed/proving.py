"""Measures a proof (`training/proof.py`) of a module and its optimizer: as Megatron's, on data ranks alone."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from athanor.training import proof
from athanor.training.checkpoints import State
from athanor.training.deepspeed.engine import Engine
from athanor.training.deepspeed.fused import FusedEngine
from athanor.training.deepspeed.ranks import Ranks
from athanor.training.deepspeed.task import BatchReader, ModuleTask
from athanor.training.optimizers import kept_tensors
from athanor.training.samples import micro_batches_of

COUNTER = "step"  # of updates, among what an optimizer keeps of a weight


class Prover:
    """Of one run. Its methods are called by all ranks together; weights, optimizer and random states stay as they are."""

    def __init__(self, task: ModuleTask, ranks: Ranks, layout: Mapping[str, Any]) -> None:
        """`layout`: what a checkpoint is cut by."""
        self._task, self._ranks = task, ranks
        sizes = {**layout, "micro_batch": task.settings.parallel.micro_batch_size}
        self._rounding = " ".join([ranks.device.type, *(f"{name}={size}" for name, size in sizes.items())])

    def proof(self, engine: Engine | FusedEngine, batches: BatchReader, samples: range) -> proof.Proof:
        """What `engine` measures with these samples. The moments are of every kind that its optimizer keeps, by name."""
        loss = self._loss(engine, batches, samples)
        norms, updates = self._kept(engine)
        moments = tuple(norms[kind] for kind in sorted(norms))
        precision = self._task.settings.precision.value
        return proof.Proof(samples.start, samples.stop, loss, moments, updates, self._rounding, precision)

    def contradiction(self, engine: Engine | FusedEngine, batches: BatchReader, state: State) -> str:
        """What was just loaded measures otherwise than when it was saved, in words; empty where nothing does."""
        if state.proof is None:
            return ""  # it is older than proofs are here
        saved = proof.from_record(state.proof)
        found = self.proof(engine, batches, range(saved.first_sample, saved.end_sample))
        return proof.contradiction(saved, found, sorted(self._kept(engine)[0]))

    def _loss(self, engine: Engine | FusedEngine, batches: BatchReader, samples: range) -> float:
        ranks, size = self._ranks, self._task.settings.parallel.micro_batch_size
        sums = torch.zeros(2, dtype=torch.float64, device=ranks.device)
        engine.evaluating(on=True)
        try:
            with torch.no_grad():
                for numbers in micro_batches_of(samples, size, ranks.data_rank, ranks.data_ranks):
                    batch = batches.batch(numbers).to(ranks.device)
                    losses = self._task.loss(engine.module, batch).double()
                    sums += torch.stack([losses.sum(), batch.weights.sum()])
        finally:
            engine.evaluating(on=False)
        dist.all_reduce(sums)
        return float(sums[0] / sums[1])

    def _kept(self, engine: Engine | FusedEngine) -> tuple[dict[str, float], int]:
        """L2 norms of all ranks' parts by kind, and the most updates that a weight has had."""
        squares: dict[str, float] = {}
        updates = max((int(group.get(COUNTER, 0)) for group in getattr(engine.optimizer, "param_groups", ())), default=0)
        for kind, tensor in kept_tensors(engine.optimizer):
            if kind == COUNTER:
                updates = max(updates, int(tensor.max()))
            else:
                squares[kind] = squares.get(kind, 0.0) + float(tensor.double().square().sum())
        everyone: list[Any] = [None] * self._ranks.data_ranks
        dist.all_gather_object(everyone, (squares, updates))
        kinds = {kind for found, _ in everyone for kind in found}
        norms = {kind: math.sqrt(sum(found.get(kind, 0.0) for found, _ in everyone)) for kind in kinds}
        return norms, max(made for _, made in everyone)
