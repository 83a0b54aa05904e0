"""Packing: every conversation once, whole, in few windows, and back from the disk as it was."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.packing import OPEN_WINDOWS, Encoded, PackedWindows, pack, write_windows

LENGTH = 16


def encoded(sizes: list[int]) -> list[Encoded]:
    """Conversations of so many tokens; the ids tell them apart, the second half of each counts."""
    return [Encoded([number] * size, [int(2 * i >= size) for i in range(size)]) for number, size in enumerate(sizes, start=1)]


@given(st.lists(st.integers(1, LENGTH + 1), max_size=300))
def test_every_conversation_is_in_one_window_and_none_overflows(sizes: list[int]) -> None:
    conversations = encoded(sizes)
    windows = list(pack(conversations, LENGTH + 1))
    assert sorted(c.ids[0] for held in windows for c in held) == [c.ids[0] for c in conversations]
    assert all(sum(len(c.ids) for c in held) <= LENGTH + 1 for held in windows)
    # Two windows that are open at once never fit into one; best fit needs at most 1.7 times the fewest windows (Johnson 1974).
    if len(windows) <= OPEN_WINDOWS:
        assert len(windows) <= 1.7 * -(-sum(sizes) // (LENGTH + 1)) + 1


def test_windows_come_back_from_the_disk(tmp_path: Path) -> None:
    packed = [encoded([5, 9]), encoded([17])]
    assert write_windows(packed, LENGTH, padding=99, folder=tmp_path) == 2
    pack_ = PackedWindows(tmp_path, LENGTH)
    first, second = pack_.window(0), pack_.window(1)
    assert first.tokens.tolist() == [1] * 5 + [2] * 9 + [99] * 3
    assert first.ends.tolist() == [5, 14, 17] and second.ends.tolist() == [17]
    assert np.flatnonzero(first.counts).tolist() == [3, 4, *range(10, 14)]
    assert not first.counts[14:].any(), "padding is not learnt"


def test_windows_of_another_length_are_refused(tmp_path: Path) -> None:
    write_windows([encoded([5])], LENGTH, padding=0, folder=tmp_path)
    with pytest.raises(StageError, match="has 1 windows of 16 tokens, not of 32"):
        PackedWindows(tmp_path, 32)
    write_windows([], LENGTH, padding=0, folder=tmp_path / "none")
    with pytest.raises(StageError, match="has 0 windows"):
        PackedWindows(tmp_path / "none", LENGTH)
