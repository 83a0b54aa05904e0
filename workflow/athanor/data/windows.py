"""A source's tokens cut into training windows: its shards end to end, each window one token longer than it trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.artifacts.run import StageError
from athanor.data.token_store import BYTES_FILE, read_token_bytes, read_tokens
from athanor.recipe.graph import HELD_OUT


class TokenStream:
    """The tokens of one source, memory-mapped: window k is tokens [k S, k S + S + 1) for sequences of S tokens.

    Neighbours share one token, the last target of the first and the first input of the second, so every token is
    predicted once.
    """

    def __init__(self, shards: Sequence[Path], sequence_length: int) -> None:
        """Raises StageError when the shards hold no window."""
        self._shards = [read_tokens(folder) for folder in shards]
        self._starts = np.cumsum([0, *map(len, self._shards)])
        self._length = sequence_length
        self.windows = max(0, (self.tokens - 1) // sequence_length)
        if not self.windows:
            raise StageError(
                f"{', '.join(map(str, shards))}: {self.tokens} tokens hold no sequence of {sequence_length} and its "
                "next token; raise the source's max_bytes (for held-out documents, data.held_out_fraction) or lower "
                "pretrain.sequence_length"
            )

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return int(self._starts[-1])

    def window(self, position: int) -> NDArray[np.int64]:
        """Window `position` [S + 1]."""
        begin = position * self._length
        end = begin + self._length + 1
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        parts = []
        while begin < end:
            shard = self._shards[first]
            offset = begin - int(self._starts[first])
            parts.append(shard[offset : offset + end - begin].astype(np.int64))
            begin += len(parts[-1])
            first += 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class HeldOutSequences:
    """Fixed validation windows. Every token after the first is predicted once; `bytes` are those of the predicted ones.

    Bits per byte = nats summed over `tokens` predictions / (ln 2 * bytes).
    """

    sequences: NDArray[np.int64]  # [windows, S + 1]: inputs are [:, :-1], targets [:, 1:]
    tokens: int  # predicted tokens
    bytes: int  # UTF-8 bytes of text they stand for; an end of a document stands for none


def held_out_sequences(folder: Path, sequence_length: int, max_tokens: int) -> HeldOutSequences:
    """The first windows of a held-out shard, `max_tokens` predictions at most but at least one window.

    Raises StageError when the shard is shorter than one window or was written without the bytes of its tokens.
    """
    if not (folder / BYTES_FILE).is_file():
        raise StageError(f"{folder} has no {BYTES_FILE}: it was tokenized by older code; run its tokenize stage again")
    stream = TokenStream([folder], sequence_length)
    count = min(stream.windows, max(1, max_tokens // sequence_length))
    sequences = np.stack([stream.window(position) for position in range(count)])
    targets = sequences[:, 1:]
    return HeldOutSequences(sequences, targets.size, int(read_token_bytes(folder)[targets].sum(dtype=np.int64)))


def training_shards(folders: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Tokenized inputs by name (`wiki_en-0`, `wiki_en-held_out`) as the training shards of each source, in order."""
    numbered: dict[str, dict[int, Path]] = {}
    for name, folder in folders.items():
        source, _, part = name.rpartition("-")
        if part.isdecimal():
            numbered.setdefault(source, {})[int(part)] = folder
    return {source: [shards[k] for k in sorted(shards)] for source, shards in numbered.items()}


def held_out_shards(folders: Mapping[str, Path]) -> dict[str, Path]:
    """The held-out shard of each source among tokenized inputs by name."""
    suffix = f"-{HELD_OUT}"
    return {name.removesuffix(suffix): folder for name, folder in folders.items() if name.endswith(suffix)}
