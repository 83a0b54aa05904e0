"""A resumed attempt's curve: each step comes from the attempt whose state the result goes back to."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.tracking.records import first_step, flat, history
from athanor.tracking.spool import Spool
from tests.tracking.synthetic import PRETRAIN, open_spool


def write_attempt(store: Path, attempt: int, begin: int, end: int, start_step: int | None = None) -> Spool:
    """An attempt that logged the steps begin … end - 1, each with its attempt's number."""
    spool = open_spool(store, PRETRAIN, attempt, start_step)
    for step in range(begin, end):
        spool.metrics(step, {"attempt": attempt})
    spool.close()
    return spool


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_step_comes_once_and_from_the_last_attempt_that_computed_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store, begin, paths = tmp_path_factory.mktemp("a"), 1, []
    owner: dict[int, int] = {}
    for attempt in range(1, data.draw(st.integers(1, 5), "attempts") + 1):
        end = begin + data.draw(st.integers(0, 6), "steps")
        paths.append(write_attempt(store, attempt, begin, end, start_step=begin).path)
        owner = {step: who for step, who in owner.items() if step < begin} | dict.fromkeys(range(begin, end), attempt)
        begin = data.draw(st.integers(1, max(1, end)), "resumed at")
    *earlier, last = paths
    before = [(r.step, r.payload["attempt"]) for r in history(earlier, last)]
    own = {step: who for step, who in owner.items() if who == len(paths)}
    assert sorted(before) == sorted((step, who) for step, who in owner.items() if step not in own)


def test_start_step_comes_from_the_first_point_where_the_start_record_does_not_say(tmp_path: Path) -> None:
    assert first_step(write_attempt(tmp_path, 1, 7, 9).path) == 7
    assert first_step(write_attempt(tmp_path, 2, 7, 9, start_step=5).path) == 5
    assert first_step(write_attempt(tmp_path, 3, 7, 7).path) is None


def test_nested_parameters_are_flattened_with_dots() -> None:
    assert flat({"model": {"layers": 4, "tie": False}, "name": "tiny", "list": [1, 2]}) == {
        "model.layers": "4",
        "model.tie": "false",
        "name": "tiny",
        "list": "[1, 2]",
    }
