"""Losses of a torch module on what is held out, the same on any number of ranks."""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.distributed as dist

from athanor.training.deepspeed.engine import Engine
from athanor.training.deepspeed.fused import FusedEngine
from athanor.training.deepspeed.task import Loss, Measured
from athanor.training.held_out import DomainLoss, domain_loss


class Place(Protocol):
    """A rank's, among those that read samples."""

    @property
    def data_rank(self) -> int:
        """This one's number."""
        ...

    @property
    def data_ranks(self) -> int:
        """Of all."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...


def measure(
    engine: Engine | FusedEngine, loss: Loss, held_out: Mapping[str, Measured], place: Place, size: int
) -> dict[str, DomainLoss]:
    """The mean losses of all domains, on every rank, in micro-batches of `size`; `tokens` are the summed weights.

    Weights, gradients and random states stay as they are.
    """
    engine.evaluating(on=True)
    try:
        with torch.no_grad():
            return {domain: _domain(engine, loss, held_out[domain], place, size) for domain in sorted(held_out)}
    finally:
        engine.evaluating(on=False)


def _domain(engine: Engine | FusedEngine, loss: Loss, measured: Measured, place: Place, size: int) -> DomainLoss:
    # Every rank makes equally many passes, since under stage 3 all of them gather the weights: the last ones may repeat sample 0,
    # which then does not count.
    passes = math.ceil(measured.samples / (size * place.data_ranks))
    sums = torch.zeros(2, dtype=torch.float64, device=place.device)
    for number in range(passes):
        begin = (number * place.data_ranks + place.data_rank) * size
        mine = range(begin, min(begin + size, measured.samples)) or range(1)
        batch = measured.batches.batch(mine).to(place.device)
        losses = loss(engine.module, batch).double()
        if begin < measured.samples:
            sums += torch.stack([losses.sum(), batch.weights.sum()])
    dist.all_reduce(sums)
    return domain_loss(float(sums[0] / sums[1]), int(sums[1]), measured.bytes)
