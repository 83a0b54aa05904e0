"""How often the candidate of the reference's own policy scores higher, and how sure that is."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000


@dataclass(frozen=True)
class Accuracy:
    """The share of triples that are ranked right, with the 95 % interval of a bootstrap."""

    triples: int
    rate: float
    low: float
    high: float


def wins(candidates: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """[triples]: 1 where the candidate's score is the higher, 0.5 where both are the same."""
    return np.where(candidates == others, 0.5, (candidates > others).astype(np.float64))


def accuracy(won: NDArray[np.float64], groups: Sequence[Hashable], seed: int) -> Accuracy:
    """The mean of `won` [triples], which may be a difference of two models' wins as well.

    Triples of one group (a prefix, whose texts they share; or a pair of policies) are drawn together, since they are no separate
    facts. Raises ValueError without triples.
    """
    if not len(won) or len(won) != len(groups):
        raise ValueError(f"{len(won)} results of {len(groups)} groups: nothing to measure; give as many, and at least one")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    place = np.array([numbers[group] for group in groups])
    sums, sizes = np.bincount(place, won), np.bincount(place)
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = random.integers(0, len(sums), size=(RESAMPLES, len(sums)))
    rates = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return Accuracy(len(won), float(won.mean()), float(low), float(high))
