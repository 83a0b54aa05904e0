"""Triples as batches of token ids, and the Bradley-Terry loss on them.

Pre-training has triples (reference, candidate, other) of policies, fine-tuning (best, second, third) of people's ranks: the first
is the reference, and the second is to beat the third. The loss is the same (arXiv 2507.05197, equations 5 and 6).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from athanor.rewards.polar.template import Template
from athanor.rewards.polar.triples import Triple

WIDTH_STEP = 16  # tokens: few different widths, so that memory is reused


@dataclass(frozen=True)
class PairBatch:
    """`tensors`: input_ids and attention_mask [2 n, seq], the n sequences that are to win before the n that are to lose.

    `weights` [n], float64: 1 a pair. The shape that the DeepSpeed backend's batches have.
    """

    tensors: Mapping[str, torch.Tensor]
    weights: torch.Tensor


@dataclass(frozen=True)
class TripleReader:
    """Batches by the global numbers of their samples: a pure function of these, on every rank and in every attempt."""

    triples: Sequence[Triple]
    template: Template
    padding: int  # token id
    seed: int | None = None  # of the order, another in every epoch; None: as they are

    def batch(self, samples: Sequence[int]) -> PairBatch:
        """The triples of these numbers, in this order; numbers go on through the epochs."""
        chosen = [self.triples[self.place(sample)] for sample in samples]
        rows = [self.template.sequence(t.prefix, t.reference, t.candidate) for t in chosen]
        rows += [self.template.sequence(t.prefix, t.reference, t.other) for t in chosen]
        return PairBatch(padded(rows, self.padding), torch.ones(len(chosen), dtype=torch.float64))

    def place(self, sample: int) -> int:
        """Which triple the sample of this number is."""
        epoch, index = divmod(sample, len(self.triples))
        return index if self.seed is None else int(_order(len(self.triples), self.seed, epoch)[index])


_ORDERS: dict[tuple[int, int, int], Any] = {}


def _order(size: int, seed: int, epoch: int) -> Any:
    """Kept for the epoch that is read: each costs 8 bytes a triple."""
    key = (size, seed, epoch)
    if key not in _ORDERS:
        _ORDERS.clear()
        _ORDERS[key] = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)
    return _ORDERS[key]


def padded(rows: Sequence[Sequence[int]], padding: int) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask [rows, seq] of sequences, filled up on the right."""
    width = -(-max(map(len, rows)) // WIDTH_STEP) * WIDTH_STEP
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def bradley_terry(winners: torch.Tensor, losers: torch.Tensor) -> torch.Tensor:
    """[pairs]: -log sigma(r_winner - r_loser), of scores [pairs]."""
    return -logsigmoid(winners - losers)


def pair_loss(module: torch.nn.Module, batch: Any) -> torch.Tensor:
    """[pairs]: the loss of a batch, by one call of a sequence classifier with one label."""
    scores = module(**batch.tensors).logits[:, 0].float()
    winners, losers = scores.chunk(2)
    return bradley_terry(winners, losers)
