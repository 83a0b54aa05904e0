"""A synthetic corpus and a small training run that a test starts as real processes: `python -m tests.training.synthetic`."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 320
LENGTH = 32


class AffineChains:
    """Sample i is the chain x[t+1] = 3 x[t] + c mod 64 with a start and c of its own: easy to learn, endless."""

    def sample(self, index: int) -> NDArray[np.int64]:
        """[LENGTH + 1] tokens."""
        random = np.random.default_rng(index)
        row = np.empty(LENGTH + 1, dtype=np.int64)
        row[0], step = random.integers(64), random.integers(1, 5)
        for t in range(1, LENGTH + 1):
            row[t] = (row[t - 1] * 3 + step) % 64
        return row


class SlowPoison(AffineChains):
    """The same until sample `at`."""
