"""Loss on held-out sequences, domain by domain: nats per token and bits per byte, the same on any number of ranks."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist

from athanor.training.batches import micro_batch
from athanor.training.held_out import DomainLoss, HeldOut, domain_loss
from athanor.training.objective import NextToken
from athanor.training.optimizer import Learner
from athanor.training.step import run_micro_batches

TOKENS_A_FORWARD_PASS = 2048  # without gradients a pass needs little memory; larger ones gain nothing on a CPU


def validate(learner: Learner, held_out: Mapping[str, HeldOut]) -> dict[str, DomainLoss]:
    """The losses of all domains, on every rank. Weights and random states stay as they are."""
    learner.settle()
    for chunk in learner.chunks:
        chunk.eval()
    try:
        with torch.no_grad():
            return {domain: _domain_loss(learner, held_out[domain]) for domain in sorted(held_out)}
    finally:
        for chunk in learner.chunks:
            chunk.train()


def _domain_loss(learner: Learner, held_out: HeldOut) -> DomainLoss:
    layout, samples = learner.layout, held_out.samples
    first = samples[0]
    rows = max(1, TOKENS_A_FORWARD_PASS // (len(first) - 1)) if isinstance(first, np.ndarray) else 1  # a packed one is a batch
    # Every rank makes equally many passes of equal shape (experts on one rank serve tokens of all): fill up with rows
    # that do not count.
    rounds = math.ceil(len(samples) / (rows * layout.data_ranks * layout.micro_batch_round))
    passes = rounds * layout.micro_batch_round
    batches = []
    for i in range(passes):
        begin = (i * layout.data_ranks + layout.data_rank) * rows
        mine = list(samples[begin : begin + rows])
        batches.append(micro_batch([*mine, *[first] * (rows - len(mine))], len(mine), layout))
    found = run_micro_batches(learner, batches, NextToken(), forward_only=True)
    sums = torch.tensor([found.loss, found.tokens], dtype=torch.float64, device=layout.device)
    dist.all_reduce(sums)
    nats = float(sums[0] / sums[1])
    tokens = sum(len(sample) - 1 if isinstance(sample, np.ndarray) else int(sample.counts[1:].sum()) for sample in samples)
    return domain_loss(nats, tokens, held_out.bytes)
