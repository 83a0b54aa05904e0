"""Packed windows as a Hugging Face model reads them: no conversation sees another, positions restart, responses alone count."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.training.deepspeed.task import Batch
from athanor.training.samples import PackedSample


class PackedReader(Protocol):
    """Packed samples by global index."""

    def sample(self, index: int) -> PackedSample:
        """Sample `index`."""
        ...


class PackedBatches:
    """Windows side by side, [windows, seq]; a token's document is its number in the window."""

    def __init__(self, reader: PackedReader) -> None:
        self.reader = reader

    def batch(self, samples: Sequence[int]) -> Batch:
        """`tokens`, `labels`, `positions`, `documents` (int64) and `counts` (float64), all [windows, seq]."""
        rows = [_row(self.reader.sample(index)) for index in samples]
        tensors = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        return Batch(tensors, tensors["counts"].sum(dim=1))


def response_losses(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """[windows]: cross-entropy in nats, summed in float64 over the tokens that count."""
    return _losses(_logits(module, batch), batch.tensors["labels"], batch.tensors["counts"])


def drawn_losses(module: torch.nn.Module, batch: Batch, random: Sequence[np.random.Generator]) -> torch.Tensor:
    """[windows]: the same with every label drawn from the model's own distribution, by one generator a window."""
    logits = _logits(module, batch)
    labels = torch.stack([_drawn(row, one) for row, one in zip(logits.detach(), random, strict=True)])
    return _losses(logits, labels, batch.tensors["counts"])


def _logits(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
    tensors = batch.tensors
    logits: torch.Tensor = module(
        input_ids=tensors["tokens"],
        attention_mask=document_mask(tensors["documents"]),
        position_ids=tensors["positions"],
        use_cache=False,
    ).logits
    return logits


def _losses(logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
    return (losses * counts).sum(dim=1)


def _drawn(logits: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """[seq] tokens from `logits` [seq, vocabulary]: those on which numbers in [0, 1) fall, in float64."""
    edges = logits.double().softmax(-1).cumsum(-1)
    numbers = torch.from_numpy(random.random(len(logits))).to(edges.device)
    places = torch.searchsorted(edges, (numbers * edges[:, -1])[:, None], right=True)[:, 0]
    return places.clamp(max=logits.shape[-1] - 1)  # rounding may put a number behind the last edge


def document_mask(documents: torch.Tensor) -> torch.Tensor:
    """[windows, 1, seq, seq], bool: which earlier tokens a token sees, from `documents` [windows, seq]."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def _row(sample: PackedSample) -> dict[str, NDArray[np.generic]]:
    length = len(sample.tokens) - 1
    places = np.arange(length)
    document = np.searchsorted(sample.ends, places, side="right")
    begins = np.concatenate([[0], sample.ends])[document]
    return {
        "tokens": sample.tokens[:-1],
        "labels": sample.tokens[1:],
        "positions": places - begins,
        "documents": document,
        "counts": sample.counts[1:].astype(np.float64),
    }
