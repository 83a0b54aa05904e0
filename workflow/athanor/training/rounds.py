"""The seam between a loop and what it learns online: samples that the weights make themselves, a round at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from athanor.training.answers import Drawn

Weights = Mapping[str, torch.Tensor]  # by their names in a Hugging Face model or folder; whole, on the CPU
# Log-probabilities in nats of each answer's tokens by the weights that learn. All ranks call it with the same rows, and each
# measures a part; without gradients.
LogProbs = Callable[[Sequence[Drawn]], list[tuple[float, ...]]]


class Rounds(Protocol):
    """Samples that are there when their round has begun. Called by all ranks together."""

    @property
    def samples(self) -> int:
        """Of a round; a step's are of one round."""
        ...

    def begin(self, number: int, weights: Callable[[], Weights], says: LogProbs) -> None:
        """Make round `number` with the weights as they are, or find it made. Raises StageError where neither can be."""
        ...

    def learnt(self, samples: range) -> int:
        """So many of a step's samples, the first, are learnt from; the others teach nothing."""
        ...

    def step_done(self, step: int, samples: range, *, left_out: bool) -> None:
        """A step has learnt from them, or was left out for its gradient."""
        ...

    def settle(self, step: int, says: LogProbs) -> None:
        """Before a save: whatever a later round needs of these weights is made, and what was learnt is on the disk."""
        ...

    def resume(self, step: int, says: LogProbs) -> None:
        """Training goes on behind `step` with what was saved there: what was learnt later is forgotten."""
        ...

    def metrics(self) -> dict[str, float]:
        """What is to be told of the steps since the last look."""
        ...
