"""Storage that fails for a while."""

from __future__ import annotations

import errno

import pytest

from snakemake_executor_plugin_submitit import weather
from snakemake_executor_plugin_submitit.weather import insist, may_pass


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weather, "_RETRY_SECONDS", 0.01)


def failing(times: int, number: int) -> tuple[list[str], object]:
    """A write that fails so often, and what it has written."""
    written: list[str] = []
    left = iter(range(times))

    def write() -> None:
        if next(left, None) is not None:
            raise OSError(number, "the storage says no")
        written.append("record")

    return written, write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_write_is_tried_until_the_storage_takes_it(number: int) -> None:
    written, write = failing(3, number)
    insist(write, seconds=60)
    assert written == ["record"]


def test_write_that_is_never_taken_fails_in_the_end() -> None:
    with pytest.raises(OSError, match="says no"):
        insist(failing(10**6, errno.ENOSPC)[1], seconds=0.05)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EROFS])
def test_error_that_does_not_pass_is_not_waited_for(number: int) -> None:
    assert not may_pass(OSError(number, ""))
    written, write = failing(1, number)
    with pytest.raises(OSError, match="says no"):
        insist(write, seconds=60)
    assert written == []
