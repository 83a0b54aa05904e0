"""One artifact, one worker: races, dead holders, foreign hosts, torn files."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from queue import Queue

import pytest

from athanor.artifacts.lease import LEASE, SILENCE_SECONDS, Holder, Lease, process_start, read_holder
from tests.artifacts.fakes import until

RACERS = 8
FORK = multiprocessing.get_context("fork")


def race(folder: Path, start: Barrier, over: Event, won: "Queue[bool]") -> None:
    """One racer: takes the lease if it can, and lives until the race is over."""
    lease = Lease(folder)
    start.wait()
    won.put(lease.try_acquire())
    over.wait()


def winners(folder: Path) -> int:
    """How many of several processes that try at the same time get the lease."""
    start, over = FORK.Barrier(RACERS), FORK.Event()
    won: Queue[bool] = FORK.Queue()  # type: ignore[assignment]
    racers = [FORK.Process(target=race, args=(folder, start, over, won)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    results = [won.get(timeout=60) for _ in racers]
    over.set()
    for racer in racers:
        racer.join()
    return sum(results)


def leave(folder: Path, holder: Holder) -> Path:
    """A lease somebody left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LEASE).write_text(json.dumps(dataclasses.asdict(holder)))
    return folder / LEASE


def silence(path: Path, seconds: float) -> None:
    """Let the last touch of `path` be so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


DEAD = Holder(os.uname().nodename, 2**22 + 1, 1, "dead")  # above the largest pid a kernel gives by default
FOREIGN = Holder("another-host", 1, 1, "foreign")


@pytest.mark.parametrize("round_", range(3))
def test_one_of_many_racers_gets_a_free_lease(tmp_path: Path, round_: int) -> None:
    assert winners(tmp_path / "artifact") == 1


@pytest.mark.parametrize("round_", range(3))
def test_one_of_many_racers_takes_over_from_a_dead_holder(tmp_path: Path, round_: int) -> None:
    leave(tmp_path, DEAD)
    assert winners(tmp_path) == 1
    assert Lease(tmp_path).try_acquire()  # all racers have ended, whoever won


def test_race_leaves_no_other_files(tmp_path: Path) -> None:
    leave(tmp_path, DEAD)
    winners(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LEASE]


def test_held_lease_cannot_be_had_until_it_is_given_up(tmp_path: Path) -> None:
    first, second = Lease(tmp_path), Lease(tmp_path)
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()


def test_lease_of_a_process_that_ended_is_free(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from athanor.artifacts.lease import Lease; Lease(Path(sys.argv[1])).try_acquire()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert (tmp_path / LEASE).exists()
    assert Lease(tmp_path).try_acquire()


def test_reused_process_id_does_not_keep_a_lease(tmp_path: Path) -> None:
    leave(tmp_path, Holder(os.uname().nodename, os.getpid(), (process_start(os.getpid()) or 0) - 1, "earlier"))
    assert Lease(tmp_path).try_acquire()


def test_zombie_is_no_holder() -> None:
    child = subprocess.Popen(["true"])
    until(lambda: process_start(child.pid) is None, "the child to end")
    child.wait()


@pytest.mark.parametrize(("silent", "free"), [(SILENCE_SECONDS / 2, False), (SILENCE_SECONDS + 5, True)])
def test_foreign_holder_is_gone_only_when_silent_by_the_file_clock(tmp_path: Path, silent: float, free: bool) -> None:
    silence(leave(tmp_path, FOREIGN), silent)
    assert Lease(tmp_path).try_acquire() is free


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_torn_lease_is_free_once_it_was_silent(tmp_path: Path, content: str) -> None:
    path = tmp_path / LEASE
    path.write_text(content)
    assert not Lease(tmp_path).try_acquire()
    silence(path, SILENCE_SECONDS + 5)
    assert Lease(tmp_path).try_acquire()


def test_taker_that_died_in_between_does_not_block_the_next(tmp_path: Path) -> None:
    leave(tmp_path, DEAD)
    mutex = tmp_path / f".{LEASE}.{DEAD.token}.takeover"
    mutex.touch()
    assert not Lease(tmp_path).try_acquire()
    silence(mutex, SILENCE_SECONDS + 5)
    assert not Lease(tmp_path).try_acquire()  # this try clears the way
    assert Lease(tmp_path).try_acquire()


def nth(number: int) -> Callable[[], bool]:
    """A condition that holds from the `number`-th question on."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= number


def test_waiting_ends_without_the_lease_when_the_work_is_done(tmp_path: Path) -> None:
    holder = Lease(tmp_path)
    assert holder.try_acquire()
    said: list[str] = []
    assert not Lease(tmp_path).acquire(nth(3), said.append, poll_seconds=0.001)
    assert said == [f"waiting for process {os.getpid()} on {os.uname().nodename}, which is making this artifact"]


def test_lease_that_comes_free_is_given_back_when_the_work_is_done(tmp_path: Path) -> None:
    assert not Lease(tmp_path).acquire(lambda: True, print)
    assert not (tmp_path / LEASE).exists()


def test_waiting_goes_on_until_the_lease_comes_free(tmp_path: Path) -> None:
    holder = Lease(tmp_path)
    assert holder.try_acquire()

    def give_up(_: str) -> None:
        holder.release()

    assert Lease(tmp_path).acquire(lambda: False, give_up, poll_seconds=0.001)


def test_error_while_looking_gives_the_lease_back(tmp_path: Path) -> None:
    def fail() -> bool:
        raise OSError("stale file handle")

    with pytest.raises(OSError, match="stale"):
        Lease(tmp_path).acquire(fail, print)
    assert not (tmp_path / LEASE).exists()


def test_release_takes_only_its_own(tmp_path: Path) -> None:
    mine = Lease(tmp_path)
    assert mine.try_acquire()
    leave(tmp_path, FOREIGN)
    mine.release()
    assert read_holder(tmp_path / LEASE) == FOREIGN


def test_held_lease_is_touched(tmp_path: Path) -> None:
    lease = Lease(tmp_path, touch_seconds=0.001)
    assert lease.try_acquire()
    silence(tmp_path / LEASE, 1000)
    with lease:
        until(lambda: time.time() - (tmp_path / LEASE).stat().st_mtime < 500, "the lease to be touched")
    assert not (tmp_path / LEASE).exists()


def test_holder_is_told_while_it_lives(tmp_path: Path) -> None:
    assert Lease(tmp_path).holder() is None
    leave(tmp_path, DEAD)
    assert Lease(tmp_path).holder() is None
    mine = Lease(tmp_path)
    assert mine.try_acquire()
    found = Lease(tmp_path).holder()
    assert found is not None
    assert found.pid == os.getpid()
