"""A resumed attempt's curve: each step comes from the attempt whose state the result goes back to."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.tracking.records import Begin, begin_of, flat, history
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


def test_an_attempt_begins_where_its_start_record_or_its_first_points_say(tmp_path: Path) -> None:
    assert begin_of(write_attempt(tmp_path, 1, 7, 9).path) == Begin(7, frozenset({"attempt"}))
    assert begin_of(write_attempt(tmp_path, 2, 7, 9, start_step=5).path) == Begin(5, None)
    assert begin_of(write_attempt(tmp_path, 3, 7, 7).path) is None


def test_an_attempt_that_only_validates_the_last_step_leaves_its_loss_to_the_one_before(tmp_path: Path) -> None:
    first, second = open_spool(tmp_path, PRETRAIN, 1), open_spool(tmp_path, PRETRAIN, 2)
    for step in (9, 10):
        first.metrics(step, {"loss": 3.0})
    first.metrics(10, {"validation": 2.0})
    second.metrics(10, {"validation": 2.0})
    kept = [(record.step, dict(record.payload)) for record in history([first.path], second.path)]
    assert kept == [(9, {"loss": 3.0}), (10, {"loss": 3.0})]


def test_nested_parameters_are_flattened_with_dots() -> None:
    assert flat({"model": {"layers": 4, "tie": False}, "name": "tiny", "list": [1, 2]}) == {
        "model.layers": "4",
        "model.tie": "false",
        "name": "tiny",
        "list": "[1, 2]",
    }
