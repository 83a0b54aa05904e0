"""A synthetic corpus: endless, the same everywhere, and easy to learn."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from athanor.training.held_out import HeldOut

if TYPE_CHECKING:
    from athanor.training.deepspeed.preference import TokenPair

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


def chain_pairs(count: int, first: int = 0) -> "list[TokenPair]":
    """Of each chain the beginning, how it goes on, and how another does."""
    from athanor.training.deepspeed.preference import TokenPair

    chains, half = [AffineChains().sample(first + number) for number in range(count)], LENGTH // 2
    pairs = []
    for number, chain in enumerate(chains):
        size = half // 2 + number % 5
        other = chains[(number + 1) % count]
        pairs.append(TokenPair(tuple(chain[:half]), tuple(chain[half : half + size]), tuple(other[half : half + size - 1])))
    return pairs


def held_out(windows: int = 13) -> dict[str, HeldOut]:
    """Two domains of unequal size, of samples that training never reaches."""
    chains = AffineChains()
    domains = {}
    for number, name in enumerate(("even", "odd")):
        rows = np.stack([chains.sample(10**9 + 2 * i + number) for i in range(windows + number)])
        domains[name] = HeldOut(rows, bytes=math.ceil(2.5 * rows[:, 1:].size))
    return domains


@dataclass(frozen=True)
class Packed:
    """A packed sample, as `athanor.data.packing.Window`."""

    tokens: NDArray[np.int64]
    counts: NDArray[np.bool_]
    ends: NDArray[np.int64]


class PackedChains:
    """Sample i is three chains end to end, of unequal lengths, of which the second half of each counts, and padding."""

    sizes = (LENGTH // 2, LENGTH // 4, LENGTH // 8)

    def sample(self, index: int) -> Packed:
        """LENGTH + 1 tokens."""
        chains = AffineChains()
        parts = [chains.sample(3 * index + number)[:size] for number, size in enumerate(self.sizes)]
        room = LENGTH + 1 - sum(self.sizes)
        counts = [position >= size // 2 for size in self.sizes for position in range(size)]
        return Packed(
            np.concatenate([*parts, np.full(room, VOCABULARY - 1)]),
            np.array([*counts, *[False] * room]),
            np.cumsum([*self.sizes, room]),
        )


def packed_held_out() -> dict[str, HeldOut]:
    """Two domains of packed samples."""
    chains = PackedChains()
    return {
        name: HeldOut([chains.sample(10**8 + 2 * i + number) for i in range(5 + number)], bytes=100)
        for number, name in enumerate(("even", "odd"))
    }
