"""Answers in windows: all of them once, none above its room, and windows nearly even."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.training.answer_windows import pack


@given(st.lists(st.integers(2, 64), min_size=1, max_size=60), st.integers(64, 256), st.integers(1, 8))
def test_every_answer_is_in_one_window_which_has_room_for_it(lengths: list[int], capacity: int, every: int) -> None:
    found = pack(lengths, capacity, every)
    assert sorted(place for window in found for place in window) == list(range(len(lengths)))
    assert not len(found) % every and all(window == sorted(window) for window in found)
    fills = [sum(lengths[place] for place in window) for window in found]
    assert max(fills) <= capacity
    if len(found) > every and len(found) - every < len(lengths):
        fewer = len(found) - every
        assert sum(lengths) > capacity * fewer or max(fills) + max(lengths) > capacity, "not more windows than are needed"
    assert max(fills) - min(fills) <= max(lengths), "and nearly even"


def test_long_answer_does_not_fill_up_the_windows_of_short_ones() -> None:
    """Two answers a window would be 32 windows of 4,150 tokens for 13,450."""
    found = pack([4000, *[150] * 63], 8000, 4)
    assert sorted(150 * len(window) for window in found[1:]) == [3150] * 3 and found[0] == [0]


@pytest.mark.parametrize("lengths", [[64], [64, 64, 64]])
def test_windows_that_come_out_even_over_ranks_may_be_empty(lengths: list[int]) -> None:
    assert [len(window) for window in pack(lengths, 64, 4)] == [1] * len(lengths) + [0] * (4 - len(lengths))
