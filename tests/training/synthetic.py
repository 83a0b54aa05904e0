"""A synthetic corpus: endless, the same everywhere, and easy to learn."""

import math

import numpy as np
from numpy.typing import NDArray

from athanor.training.validation import HeldOut

VOCABULARY = 320
LENGTH = 32


class AffineChains:
    """Sample i is a chain x[t+1] = 3 x[t] + c mod 64, with a start and a c of its own."""

    def __init__(self, first: int = 0) -> None:
        self._first = first

    def sample(self, index: int) -> NDArray[np.int64]:
        """[LENGTH + 1] tokens."""
        random = np.random.default_rng(self._first + index)
        row = np.empty(LENGTH + 1, dtype=np.int64)
        row[0], constant = random.integers(64), random.integers(1, 5)
        for t in range(1, LENGTH + 1):
            row[t] = (row[t - 1] * 3 + constant) % 64
        return row


def held_out(windows: int = 13) -> dict[str, HeldOut]:
    """Two domains of unequal size, of samples that training never reaches."""
    chains = AffineChains()
    domains = {}
    for number, name in enumerate(("even", "odd")):
        rows = np.stack([chains.sample(10**9 + 2 * i + number) for i in range(windows + number)])
        domains[name] = HeldOut(rows, bytes=math.ceil(2.5 * rows[:, 1:].size))
    return domains
