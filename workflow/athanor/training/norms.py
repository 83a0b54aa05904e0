"""Steps that are left out for their gradient: by a quantile of a run's own norms, since an absolute cut does not transfer."""

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

WINDOW = 256  # norms that the quantile is of
LEAST = 32  # of them; before, nothing is left out


class Norms:
    """The last norms of a run. What a resumed run knows is what its curve has, so that it leaves the same steps out."""

    def __init__(self, share: float, before: Iterable[float] = ()) -> None:
        """`share` of the steps are left out, 0 for none; `before` are the norms of the steps so far."""
        self._share = share
        self._norms = deque((norm for norm in before if _counts(norm)), maxlen=WINDOW)

    def most(self) -> float:
        """The norm above which the next step is left out; infinite where none is."""
        if not self._share or len(self._norms) < LEAST:
            return math.inf
        return float(np.quantile(self._norms, 1.0 - self._share))

    def learn(self, norm: float) -> None:
        """One more step's; those in which nothing was learnt do not count."""
        if _counts(norm):
            self._norms.append(norm)


def _counts(norm: float) -> bool:
    return math.isfinite(norm) and norm > 0.0
