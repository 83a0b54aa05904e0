"""What tells policies apart without having learnt it: how near two texts are in an untrained encoder, in bigrams, in length.

A score is higher the likelier both texts are of one policy, as a reward model's. A trained one must beat the best of these: T1 of
the project's notes has 0.73 for bigrams of Markov chains, where chance is 0.5.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from athanor.rewards.polar.pairs import padded

Texts = Sequence[Sequence[int]]  # token ids
Score = Callable[[Texts, Texts, Texts], NDArray[np.float64]]  # prefixes, references, candidates → [texts]
AT_ONCE = 64


def length(_prefixes: Texts, references: Texts, candidates: Texts) -> NDArray[np.float64]:
    """Minus the difference of lengths: 0 everywhere in equalised triples, which makes their accuracy 0.5."""
    return -np.array([abs(len(a) - len(b)) for a, b in zip(references, candidates, strict=True)], dtype=np.float64)


def bigrams(_prefixes: Texts, references: Texts, candidates: Texts) -> NDArray[np.float64]:
    """Minus the L2 distance between counts of bigrams, each text's scaled to sum to one."""
    return -np.array([_distance(a, b) for a, b in zip(references, candidates, strict=True)])


def _distance(one: Sequence[int], two: Sequence[int]) -> float:
    counts: dict[tuple[int, int], list[float]] = {}
    for side, text in enumerate((one, two)):
        pairs = list(pairwise(text))
        for pair in pairs:
            counts.setdefault(pair, [0.0, 0.0])[side] += 1 / len(pairs)
    return float(np.sqrt(sum((a - b) ** 2 for a, b in counts.values())))


class Embeddings:
    """Minus the L2 distance between the mean states of two texts behind their prefix, by a decoder that knows of no rewards."""

    def __init__(self, folder: Path, padding: int) -> None:
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._padding = padding

    def __call__(self, prefixes: Texts, references: Texts, candidates: Texts) -> NDArray[np.float64]:
        ours, theirs = self._pooled(prefixes, references), self._pooled(prefixes, candidates)
        distances: NDArray[np.float64] = np.sqrt(((ours - theirs) ** 2).sum(1))
        return -distances

    @torch.inference_mode()
    def _pooled(self, prefixes: Texts, texts: Texts) -> NDArray[np.float64]:
        """[texts, hidden]"""
        found = []
        for begin in range(0, len(texts), AT_ONCE):
            before, some = prefixes[begin : begin + AT_ONCE], texts[begin : begin + AT_ONCE]
            tensors = padded([[*a, *b] for a, b in zip(before, some, strict=True)], self._padding)
            states = self._model(**tensors).last_hidden_state.double()
            place = torch.arange(states.shape[1])
            starts, sizes = (torch.tensor([len(one) for one in lists])[:, None] for lists in (before, some))
            counts = ((place >= starts) & (place < starts + sizes)).double()
            found.append(((states * counts[:, :, None]).sum(1) / counts.sum(1, keepdim=True)).numpy())
        return np.concatenate(found)
