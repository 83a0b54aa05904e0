"""Where a step's time goes: exclusive parts, so that what is nested counts once and all parts together are the step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import torch


class Part(StrEnum):
    """Of a step."""

    DATA = "data"
    COMPUTE = "forward_backward"
    COMMUNICATION = "communication"  # what of reducing gradients no computing hides; within a model replica it is compute's
    OPTIMIZER = "optimizer"
    CHECKPOINT = "checkpoint"


class Stopwatch:
    """Adds up the seconds of each part since the last `take`."""

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else _nothing
        self._seconds = dict.fromkeys(Part, 0.0)
        self._open: list[Part] = []
        self._since = 0.0

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """What is done inside is `part`'s, but for parts inside it."""
        self._turn()
        self._open.append(part)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def take(self) -> dict[Part, float]:
        """Seconds of each part since the last look."""
        taken, self._seconds = self._seconds, dict.fromkeys(Part, 0.0)
        return taken

    def _turn(self) -> None:
        """Seconds up to now are the innermost open part's."""
        self._wait()
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


def _nothing() -> None:
    """A CPU computes what it is told before it returns."""
