"""The curve of a run that was killed and continued has the bytes of one that was not."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.training.curve import Curve, Point


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
