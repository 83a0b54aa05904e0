"""Packed windows as a Hugging Face model reads them: no conversation sees another, positions restart, responses alone count."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.training.deepspeed.task import Batch
from athanor.training.samples import Packed, PackedSample

NO_DOCUMENT = -1  # of padding behind a window


class PackedReader(Protocol):
    """Packed samples by global index."""

    def sample(self, index: int) -> PackedSample:
        """Sample `index`."""
        ...


class PackedBatches:
    """Windows side by side, [windows, seq]; a token's document is its number in the window.

    The ids `first` (virtual tokens) stand before each conversation that counts, beyond the window's length: a conversation sees
    its own. Windows that are longer by fewer of them are padded.
    """

    def __init__(self, reader: PackedReader, first: Sequence[int] = ()) -> None:
        self.reader = reader
        self._first = np.array(first, dtype=np.int64)

    def batch(self, samples: Sequence[int]) -> Batch:
        """`tokens`, `labels`, `positions`, `documents` (int64) and `counts` (float64), all [windows, seq]."""
        rows = [_row(begun(self.reader.sample(index), self._first)) for index in samples]
        longest = max(len(row["tokens"]) for row in rows)
        rows = [_padded(row, longest) for row in rows]
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


def begun(sample: PackedSample, first: NDArray[np.int64]) -> PackedSample:
    """`sample` with the ids `first` before each of its conversations; what nothing counts in (padding) is left."""
    if not len(first):
        return sample
    tokens, counts, ends, begin, size = [], [], [], 0, 0
    for end in sample.ends:
        if sample.counts[begin:end].any():
            tokens.append(first)
            counts.append(np.zeros(len(first), dtype=np.bool_))
            size += len(first)
        tokens.append(sample.tokens[begin:end])
        counts.append(sample.counts[begin:end])
        size += int(end) - begin
        ends.append(size)
        begin = int(end)
    return Packed(np.concatenate(tokens), np.concatenate(counts), np.array(ends, dtype=np.int64))


def _padded(row: dict[str, NDArray[np.generic]], length: int) -> dict[str, NDArray[np.generic]]:
    """Up to `length` tokens, with zeros in a document of their own."""
    room = length - len(row["tokens"])
    fill = {name: np.zeros(room, dtype=column.dtype) for name, column in row.items()}
    fill["documents"] = np.full(room, NO_DOCUMENT)
    return {name: np.concatenate([column, fill[name]]) for name, column in row.items()} if room else row


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
