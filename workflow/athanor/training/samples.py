"""What samples are, and which of them each rank trains on: a pure function of their global index."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PackedSample(Protocol):
    """Documents end to end that must not see each other, and which of their tokens count."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """[sequence_length + 1]: inputs are [:-1], targets [1:]."""
        ...

    @property
    def counts(self) -> NDArray[np.bool_]:
        """[sequence_length + 1]: whether a token is learnt to be predicted."""
        ...

    @property
    def ends(self) -> NDArray[np.int64]:
        """Of each document, rising, the last sequence_length + 1."""
        ...


@dataclass(frozen=True)
class Packed:
    """A `PackedSample` that is made where it is read."""

    tokens: NDArray[np.int64]
    counts: NDArray[np.bool_]
    ends: NDArray[np.int64]


Sample = NDArray[np.int64] | PackedSample  # running text [sequence_length + 1], or packed documents


class SampleReader(Protocol):
    """Training samples by global index: a pure function of the index."""

    def sample(self, index: int) -> Sample:
        """Sample `index`."""
        ...


def micro_batches_of(samples: range, micro_batch_size: int, data_rank: int, data_ranks: int) -> tuple[tuple[int, ...], ...]:
    """A data rank's micro-batches of a global batch: `samples` are cut into micro-batches, dealt round the ranks.

    So the set of micro-batches does not depend on the number of ranks. Raises ValueError where they do not come out even.
    """
    if len(samples) % (micro_batch_size * data_ranks):
        raise ValueError(f"{len(samples)} samples do not cut into micro-batches of {micro_batch_size} x {data_ranks} ranks")
    starts = range(samples.start + data_rank * micro_batch_size, samples.stop, data_ranks * micro_batch_size)
    return tuple(tuple(range(start, start + micro_batch_size)) for start in starts)
