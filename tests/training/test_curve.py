"""The curve of a run that was killed and continued has the bytes of one that was not."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.training.curve import Curve, Point, read_curve, replays
from tests.training.faults import no_constants


def _point(step: int) -> Point:
    return Point(step, step * 256, 1e-3 / step, 1 / (step + 0.1), 0.5, 1.0)


def _write(path: Path, first: int, resume: int, last: int) -> Curve:
    curve = Curve(path, first, resume)
    for step in range(resume + 1, last + 1):
        curve.add(_point(step))
    curve.close()
    return curve


@settings(deadline=None)  # a disk may be slow to sync
@given(first=st.integers(0, 5), length=st.integers(1, 8), data=st.data())
def test_curve_cut_anywhere_and_continued_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, first: int, length: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("curve")
    _write(folder / "whole", first, first, first + length)
    _write(folder / "cut", first, first, data.draw(st.integers(first, first + length)))
    killed = (folder / "cut").read_bytes()
    (folder / "cut").write_bytes(killed[: data.draw(st.integers(0, len(killed)))])
    whole_lines = (folder / "cut").read_bytes().count(b"\n")
    _write(folder / "cut", first, first + data.draw(st.integers(0, whole_lines)), first + length)
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()


def test_curve_behind_its_checkpoint_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "curve.jsonl", 0, 0, 3)
    with pytest.raises(StageError, match="lacks steps between 1 and 5"):
        Curve(tmp_path / "curve.jsonl", 0, 5)


def test_curve_steps_behind_the_checkpoint_are_kept_for_comparison(tmp_path: Path) -> None:
    _write(tmp_path / "curve.jsonl", 0, 0, 5)
    curve = Curve(tmp_path / "curve.jsonl", 0, 3)
    assert sorted(curve.replayed) == [4, 5]
    assert curve.replayed[4] == _point(4)
    assert curve.last == _point(3)


def test_numbers_that_are_none_are_null_in_the_file_and_nan_when_read(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl", 0, 0)
    curve.add(Point(1, 256, 1e-3, math.nan, math.inf, 1.0))
    curve.close()
    [line] = (tmp_path / "curve.jsonl").read_text().splitlines()
    values = json.loads(line, parse_constant=no_constants)
    assert (values["loss"], values["grad_norm"]) == (None, None)
    [point] = read_curve(tmp_path / "curve.jsonl")
    assert math.isnan(point.loss) and math.isnan(point.grad_norm) and (point.step, point.lr, point.aux_loss) == (1, 1e-3, 1.0)
    Curve(tmp_path / "curve.jsonl", 0, 1).close()
    assert (tmp_path / "curve.jsonl").read_text() == line + "\n", "what a resume writes again"


def test_curve_of_before_that_has_nan_is_read(tmp_path: Path) -> None:
    line = '{"step": 1, "tokens": 256, "lr": 0.001, "loss": NaN, "grad_norm": Infinity, "aux_loss": 1.0}\n'
    (tmp_path / "curve.jsonl").write_text(line)
    [point] = read_curve(tmp_path / "curve.jsonl")
    assert math.isnan(point.loss)


def test_replay_that_has_become_a_number_or_none_is_not_the_same() -> None:
    assert replays(2.0, 2.001) and replays(math.nan, math.inf)
    assert not replays(2.0, 2.1) and not replays(2.0, math.nan) and not replays(math.nan, 2.0)
