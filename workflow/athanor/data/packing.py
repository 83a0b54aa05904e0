"""Whole conversations packed into windows of equal length, which say where each ends and which tokens are learnt."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.artifacts.files import write_atomically
from athanor.artifacts.run import StageError

TOKENS_FILE, COUNTS_FILE, ENDS_FILE, SHAPE_FILE = "tokens.bin", "counts.bin", "ends.bin", "windows.json"
PACK_FILES = (TOKENS_FILE, COUNTS_FILE, ENDS_FILE, SHAPE_FILE)
OPEN_WINDOWS = 64  # that wait for a conversation to fill them: more fill better and are searched longer


@dataclass(frozen=True)
class Encoded:
    """A conversation's token ids, and which of them the model is to learn."""

    ids: Sequence[int]
    counts: Sequence[int]  # 1 where a token is said by the assistant


@dataclass(frozen=True)
class Window:
    """One sample: conversations end to end, and padding, which counts as one more. Inputs are tokens[:-1], targets [1:]."""

    tokens: NDArray[np.int64]  # [S + 1]
    counts: NDArray[np.bool_]  # [S + 1]: whether a token is learnt
    ends: NDArray[np.int64]  # of each conversation in [1, S + 1], rising, the last S + 1


def pack(conversations: Iterable[Encoded], length: int) -> Iterator[list[Encoded]]:
    """Lists of conversations that fit `length` tokens together; each goes where it leaves least room (best fit).

    A pure function of their order. Those that no window holds must have been left out before.
    """
    windows: list[tuple[int, list[Encoded]]] = []  # room left, conversations
    for conversation in conversations:
        size = len(conversation.ids)
        fits = [number for number, (room, _) in enumerate(windows) if room >= size]
        if fits:
            best = min(fits, key=lambda number: windows[number][0])
            room, held = windows[best]
            held.append(conversation)
            windows[best] = room - size, held
        else:
            if len(windows) == OPEN_WINDOWS:
                fullest = min(range(len(windows)), key=lambda number: windows[number][0])
                yield windows.pop(fullest)[1]
            windows.append((length - size, [conversation]))
    yield from (held for _, held in windows)


def write_windows(packed: Iterable[list[Encoded]], sequence_length: int, padding: int, folder: Path) -> int:
    """Write windows of sequence_length + 1 tokens below `folder`; how many. Without the shape, which comes last, none is read."""
    folder.mkdir(parents=True, exist_ok=True)
    windows, size = 0, sequence_length + 1
    names = (TOKENS_FILE, COUNTS_FILE, ENDS_FILE)
    lengths: list[int] = []
    with (
        (folder / f"{TOKENS_FILE}.partial").open("wb") as tokens,
        (folder / f"{COUNTS_FILE}.partial").open("wb") as counts,
        (folder / f"{ENDS_FILE}.partial").open("wb") as ends,
    ):
        for held in packed:
            ids = [token for conversation in held for token in conversation.ids]
            learnt = [bit for conversation in held for bit in conversation.counts]
            room = size - len(ids)
            tokens.write(np.array(ids + [padding] * room, dtype=np.int32).tobytes())
            counts.write(np.array(learnt + [0] * room, dtype=np.bool_).tobytes())
            stops = np.cumsum([*(len(conversation.ids) for conversation in held), *([room] if room else [])], dtype=np.int32)
            ends.write(stops.tobytes())
            lengths.append(len(stops))
            windows += 1
    for name in names:
        os.replace(folder / f"{name}.partial", folder / name)
    shape = {"schema_version": 1, "windows": windows, "sequence_length": sequence_length, "conversations": lengths}
    write_atomically(folder / SHAPE_FILE, json.dumps(shape))
    return windows


class PackedWindows:
    """The windows of one folder, memory-mapped."""

    def __init__(self, folder: Path, sequence_length: int) -> None:
        """Raises StageError when there are none, or they are of another length."""
        shape = json.loads((folder / SHAPE_FILE).read_text())
        self.windows = int(shape["windows"])
        if shape["sequence_length"] != sequence_length or not self.windows:
            raise StageError(
                f"{folder} has {self.windows} windows of {shape['sequence_length']} tokens, not of {sequence_length}; pack again"
            )
        self._tokens = np.memmap(folder / TOKENS_FILE, np.int32, "r", shape=(self.windows, sequence_length + 1))
        self._counts = np.memmap(folder / COUNTS_FILE, np.bool_, "r", shape=(self.windows, sequence_length + 1))
        self._ends = np.fromfile(folder / ENDS_FILE, dtype=np.int32)
        self._first = np.cumsum([0, *shape["conversations"]])

    def window(self, position: int) -> Window:
        """Window `position`."""
        ends = self._ends[self._first[position] : self._first[position + 1]]
        return Window(self._tokens[position].astype(np.int64), np.array(self._counts[position]), ends.astype(np.int64))
