"""The order of training samples: a pure function of (seed, source, epoch, index), the same for any number of ranks.

Nothing here depends on how many tokens will be trained, so a larger budget only appends samples, and a milestone's
samples never change. Any sample is found in constant time and memory, so a resume needs one number: the samples
consumed.

Samples come in blocks of K = 4096. With cumulative weights W_0 = 0 … W_n = 1, block b holds
floor((b+1) K W_s) - floor(b K W_s) - (the same for W_{s-1}) samples of source s. The sum over sources is exactly K, and
after any number of blocks each source is within one sample of its weight. Where the samples of each source stand inside
the block is a seeded bijection of [0, K). The j-th sample of a source is window p(j mod N) of epoch j div N, where p is
a seeded bijection of its N windows, one for each epoch: no window comes again before all others have come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from athanor.artifacts.run import StageError
from athanor.data.packing import PackedWindows, Window
from athanor.data.permutation import permutation, permute, stream_key
from athanor.data.windows import TokenStream
from athanor.recipe.schema.choices import TokenOrder
from athanor.recipe.trainings import SMALLEST_WEIGHT

BLOCK = int(2 / SMALLEST_WEIGHT)  # 4096 samples; a smaller weight could round to a negative share of a block
WEIGHT_UNITS = 1 << 48  # weights are whole multiples of 2**-48, so that counts are exact for any number of samples
CACHED_BLOCKS = 4


class Place(NamedTuple):
    """Where a sample comes from."""

    source: str
    epoch: int
    position: int  # window of the source


@dataclass(frozen=True)
class _Block:
    """How one block of samples is dealt out to the sources."""

    source: NDArray[np.int64]  # [K] which source each sample is from
    step: NDArray[np.int64]  # [K] samples of that source before it in this block
    consumed: tuple[int, ...]  # [sources] samples of it in all blocks before


class SampleOrder:
    """Which window of which source every sample is, for any number of sources by weight."""

    def __init__(self, windows: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        """`windows` of each source, at least one. `weights` need not sum to one.

        Raises StageError when a weight is too small or has no source.
        """
        if missing := sorted(set(weights) - set(windows)):
            raise StageError(f"the mixture names {', '.join(missing)}, of which there are no tokens; there is {list(windows)}")
        self.names = tuple(sorted(weights))
        self.windows = {name: windows[name] for name in self.names}
        self._seed, self._cumulative = seed, _cumulative_weights(weights)
        self._deal = lru_cache(CACHED_BLOCKS)(self._deal_block)
        self._epoch_key = lru_cache(4 * len(self.names))(lambda name, epoch: stream_key(seed, "epoch", name, epoch))

    def where(self, index: int) -> Place:
        """The window that sample `index` is. Raises ValueError for a negative index."""
        if index < 0:
            raise ValueError(f"samples are numbered from 0, not {index}")
        number, place = divmod(index, BLOCK)
        block = self._deal(number)
        source = int(block.source[place])
        name = self.names[source]
        epoch, step = divmod(block.consumed[source] + int(block.step[place]), self.windows[name])
        return Place(name, epoch, permute(step, self.windows[name], self._epoch_key(name, epoch)))

    def consumed(self, samples: int) -> dict[str, int]:
        """Samples of each source among the first `samples`."""
        number, rest = divmod(samples, BLOCK)
        block = self._deal(number)
        inside = np.bincount(block.source[:rest], minlength=len(self.names))
        return {name: block.consumed[s] + int(inside[s]) for s, name in enumerate(self.names)}

    def _deal_block(self, number: int) -> _Block:
        before, after = self._dealt(number), self._dealt(number + 1)
        ends = [b - a for a, b in zip(before, after, strict=True)]
        consumed = tuple(b - a for a, b in zip([0, *before], before, strict=False))
        order = permutation(BLOCK, stream_key(self._seed, "block", number))
        source = np.searchsorted(ends, order, side="right")
        step = np.empty(BLOCK, dtype=np.int64)
        by_source = np.argsort(source, kind="stable")
        step[by_source] = np.arange(BLOCK) - np.array([0, *ends])[source[by_source]]
        return _Block(source, step, consumed)

    def _dealt(self, blocks: int) -> list[int]:
        """Samples of the first s + 1 sources together in so many blocks, for each s."""
        return [blocks * BLOCK * weight // WEIGHT_UNITS for weight in self._cumulative]


class Mixture:
    """Training samples of running text by index, from any number of sources by weight."""

    def __init__(
        self,
        sources: Mapping[str, Sequence[Path]],
        weights: Mapping[str, float],
        sequence_length: int,
        seed: int,
        order: TokenOrder = TokenOrder.NATURAL,
    ) -> None:
        """`sources`: the tokenized training shards of each, in order.

        SHUFFLED order permutes the tokens inside every sample: the negative control. Raises StageError as SampleOrder does, and
        when a source holds less than one sequence.
        """
        self._streams = {name: TokenStream(sources[name], sequence_length) for name in sorted(weights) if name in sources}
        self._order = SampleOrder({name: stream.windows for name, stream in self._streams.items()}, weights, seed)
        self.where, self.consumed = self._order.where, self._order.consumed
        self.names, self.windows = self._order.names, self._order.windows
        self._seed, self._token_order = seed, order
        self._length = sequence_length

    def sample(self, index: int) -> NDArray[np.int64]:
        """Sample `index` [S + 1]: inputs are [:-1], targets [1:]."""
        place = self.where(index)
        tokens = self._streams[place.source].window(place.position)
        if self._token_order is TokenOrder.SHUFFLED:
            tokens = tokens[permutation(self._length + 1, stream_key(self._seed, "tokens", index))]
        return tokens


class PackedMixture:
    """Training samples of packed conversations by index, from any number of tasks by weight."""

    def __init__(self, folders: Mapping[str, Path], weights: Mapping[str, float], sequence_length: int, seed: int) -> None:
        """`folders`: the training windows of each task. Raises StageError as SampleOrder and PackedWindows do."""
        self._packs = {name: PackedWindows(folders[name], sequence_length) for name in sorted(weights) if name in folders}
        self._order = SampleOrder({name: pack.windows for name, pack in self._packs.items()}, weights, seed)
        self.where = self._order.where

    def sample(self, index: int) -> Window:
        """Sample `index`."""
        place = self.where(index)
        return self._packs[place.source].window(place.position)


def _cumulative_weights(weights: Mapping[str, float]) -> list[int]:
    """W_1 … W_n of the sources sorted by name, in units of 2**-48; the last is exactly one."""
    if any(weight <= 0 for weight in weights.values()) or not weights:
        raise StageError(f"mixture={dict(weights)}: needs at least one source, and weights above 0")
    exact = [Fraction(weights[name]) for name in sorted(weights)]
    total = sum(exact)
    for name, weight in zip(sorted(weights), exact, strict=True):
        if weight / total < SMALLEST_WEIGHT:
            raise StageError(
                f"mixture.{name}={weights[name]} is {float(weight / total):.2g} of the mixture, less than "
                f"1/{BLOCK // 2}, the smallest share a block of {BLOCK} samples can keep; give it at least "
                f"{float(total * SMALLEST_WEIGHT):.3g} or leave it out"
            )
    return [round(below * WEIGHT_UNITS / total) for below in accumulate(exact)]
