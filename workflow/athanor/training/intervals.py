"""How long to train between two saves, where the recipe leaves it to what a save costs and how often nodes fail."""

import math
import statistics
import time
from dataclasses import dataclass

from athanor.recipe.schema.training import Checkpoint

HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """Of the last save that was published, in seconds: what training stood still for, and what it took in all."""

    stall: float
    total: float


class Interval:
    """The time since the last save, on this rank's clock, against the interval of Young and Daly."""

    def __init__(self, settings: Checkpoint, node_hours: float, nodes: int) -> None:
        """`node_hours` are those between two failures of one of `nodes`."""
        self._fixed, self._node_hours, self._nodes = bool(settings.every_tokens), node_hours, nodes
        self._stalls: list[float] = []  # of the last saves
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """What the last saves cost says it; 0 before the first, which shows what one costs."""
        if not self._stalls:
            return 0.0
        return young_interval(statistics.median(self._stalls), self._node_hours, self._nodes)

    def is_over(self) -> bool:
        """Whether it has passed; never where the recipe has one in tokens."""
        return not self._fixed and time.monotonic() - self._last > self.seconds

    def begin(self) -> float:
        """A save begins: now (time.monotonic)."""
        self._last = time.monotonic()
        return self._last

    def learn(self, stall: float) -> None:
        """Training stood still for so many seconds in a save."""
        self._stalls = [*self._stalls[-4:], stall]


def young_interval(stall: float, node_hours: float, nodes: int) -> float:
    """Seconds between two saves that lose the least, to first order: sqrt(2 x stall x time between failures) (Young 1974;
    Daly 2006, equation 13). `stall` in seconds; a node fails every `node_hours`, so that many nodes fail more often."""
    return math.sqrt(2 * stall * HOUR * node_hours / nodes)
