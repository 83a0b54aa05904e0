"""Unigram and bigram models over token ids: what a language model must beat to have learned more than counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[Any]  # integers of any width
BASELINES_FILE = "baselines.json"
BLOCK_TOKENS = 1 << 22  # tokens counted at once: memory is the distinct bigrams plus a few of these


@dataclass(frozen=True)
class NgramLoss:
    """Mean loss on held-out windows, in nats a predicted token."""

    unigram: float
    bigram: float
    tokens: int  # predicted


class NgramCounts:
    """Counts of predicted tokens and of bigrams, added stream by stream."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.tokens = np.zeros(vocab_size, dtype=np.int64)  # [vocabulary]
        self.pairs = np.empty(0, dtype=np.int64)  # v · vocab_size + w of the bigrams seen, ascending
        self.pair_counts = np.empty(0, dtype=np.int64)  # as long as `pairs`

    def add(self, stream: Tokens) -> None:
        """Count the tokens [n] of one shard, each predicted from the one before it.

        Raises ValueError when an id is not in the vocabulary.
        """
        for block in _blocks(stream):
            if int(block.max()) >= self.vocab_size:
                raise ValueError(f"token id {int(block.max())} is not below model.vocab_size={self.vocab_size}")
            self.tokens += np.bincount(block[1:], minlength=self.vocab_size)
            pairs, counts = np.unique(block[:-1] * self.vocab_size + block[1:], return_counts=True)
            merged, place = np.unique(np.concatenate([self.pairs, pairs]), return_inverse=True)
            total = np.zeros(len(merged), dtype=np.int64)
            np.add.at(total, place, np.concatenate([self.pair_counts, counts]))
            self.pairs, self.pair_counts = merged, total


class NgramModel:
    """Interpolated bigrams with absolute discounting and a Kneser-Ney lower order (Chen and Goodman 1999, section 2.7).

    P(w|v) = max(c(v,w) - D, 0)/c(v) + D·N(v,·)/c(v) · P_kn(w), where N counts distinct bigrams, and P_kn discounts
    the continuation counts N(·,w) likewise towards the uniform distribution. D = n1/(n1 + 2·n2) at each level: the
    leave-one-out estimate on the training tokens themselves (Ney, Essen and Kneser 1994). The unigram model discounts the
    plain counts in the same way. Every token of the vocabulary has a probability, seen or not.
    """

    def __init__(self, counts: NgramCounts) -> None:
        self._counts = counts
        size = counts.vocab_size
        previous, following = counts.pairs // size, counts.pairs % size
        self._unigram = _discounted(counts.tokens)
        self._continuation = _discounted(np.bincount(following, minlength=size))
        self._discount = _discount(counts.pair_counts)
        self._context = np.zeros(size, dtype=np.int64)  # c(v)
        np.add.at(self._context, previous, counts.pair_counts)
        self._distinct = np.bincount(previous, minlength=size)  # N(v,·)

    def unigram(self, tokens: Tokens) -> NDArray[np.float64]:
        """P(token), of any shape."""
        return self._unigram[tokens]

    def bigram(self, previous: Tokens, tokens: Tokens) -> NDArray[np.float64]:
        """P(token | previous), of any shape."""
        seen = self._context[previous]
        pair_counts = self._pair_counts(np.asarray(previous, np.int64) * self._counts.vocab_size + tokens)
        total = np.maximum(seen, 1)
        own = np.maximum(pair_counts - self._discount, 0.0) / total
        backoff = np.where(seen > 0, self._discount * self._distinct[previous] / total, 1.0)
        probability: NDArray[np.float64] = own + backoff * self._continuation[tokens]
        return probability

    def loss(self, windows: Tokens) -> NgramLoss:
        """Mean loss over windows [n, S + 1], in each of which every token after the first is predicted."""
        previous, tokens = windows[:, :-1], windows[:, 1:]
        return NgramLoss(
            unigram=float(-np.log(self.unigram(tokens)).mean()),
            bigram=float(-np.log(self.bigram(previous, tokens)).mean()),
            tokens=int(tokens.size),
        )

    def _pair_counts(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        pairs, counts = self._counts.pairs, self._counts.pair_counts
        if not len(pairs):
            return np.zeros_like(keys)
        place = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
        return np.where(pairs[place] == keys, counts[place], 0)


def _blocks(stream: Tokens) -> Iterator[NDArray[np.int64]]:
    """Pieces that share one token: it ends one and begins the next."""
    for begin in range(0, len(stream) - 1, BLOCK_TOKENS):
        yield np.asarray(stream[begin : begin + BLOCK_TOKENS + 1], dtype=np.int64)


def _discount(counts: NDArray[np.int64]) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else 0.5


def _discounted(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probabilities [vocabulary]: counts less a discount, which is spread evenly over the whole vocabulary."""
    total = int(counts.sum())
    if not total:
        return np.full(len(counts), 1 / len(counts))
    discount = _discount(counts)
    freed = discount * int((counts > 0).sum()) / total
    probability: NDArray[np.float64] = np.maximum(counts - discount, 0.0) / total + freed / len(counts)
    return probability
