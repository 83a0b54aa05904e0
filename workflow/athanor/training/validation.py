"""Loss on held-out sequences, domain by domain: nats per token and bits per byte, the same on any number of ranks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from athanor.artifacts.files import write_json
from athanor.artifacts.strict_json import finite
from athanor.training.batches import Sample, micro_batch
from athanor.training.objective import NextToken
from athanor.training.optimizer import Learner
from athanor.training.step import run_micro_batches

VALIDATION = "validation.json"
START_VALIDATION = "validation_start.json"  # of the weights that another stage trained
TOKENS_A_FORWARD_PASS = 2048  # without gradients a pass needs little memory; larger ones gain nothing on a CPU


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples of one domain, equally long, and the UTF-8 bytes of the tokens in them that count."""

    samples: Sequence[Sample]
    bytes: int


@dataclass(frozen=True)
class DomainLoss:
    """Mean loss of a domain. Bits per byte = nats / (ln 2 * bytes): comparable between tokenizers."""

    nats_per_token: float
    tokens: int
    bits_per_byte: float


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


def write_validation(path: Path, losses: Mapping[str, DomainLoss]) -> None:
    """`validation.json`: domain → nats_per_token, tokens, bits_per_byte."""
    write_json(path, finite({domain: asdict(loss) for domain, loss in losses.items()}))


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
    return DomainLoss(nats, tokens, nats * tokens / (math.log(2) * held_out.bytes))
