"""One writer a campaign: locks of the living are respected, those of the dead are taken over by exactly one."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from athanor.tracking.lock import WriterLock, create_exclusively, process_start


def write_holder(path: Path, **changes: object) -> None:
    """A lock file as another process would have left it."""
    holder = {"host": os.uname().nodename, "pid": os.getpid(), "started": process_start(os.getpid()), "token": "other"}
    path.write_text(json.dumps(holder | changes))


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_second_writer_steps_aside_until_the_first_releases(tmp_path: Path) -> None:
    first, second = WriterLock(tmp_path / "lock"), WriterLock(tmp_path / "lock")
    assert first.try_acquire() and not second.try_acquire()
    first.release()
    assert second.try_acquire() and second.is_held() and not first.is_held()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    write_holder(tmp_path / "lock", pid=dead_pid())
    assert WriterLock(tmp_path / "lock").try_acquire()


def test_lock_of_a_reused_pid_is_taken_over(tmp_path: Path) -> None:
    write_holder(tmp_path / "lock", started=1.0)
    assert WriterLock(tmp_path / "lock").try_acquire()


def test_lock_of_another_host_is_taken_over_only_after_long_silence(tmp_path: Path) -> None:
    write_holder(tmp_path / "lock", host="elsewhere")
    assert not WriterLock(tmp_path / "lock").try_acquire()
    os.utime(tmp_path / "lock", (1e9, 1e9))
    assert WriterLock(tmp_path / "lock").try_acquire()


def test_of_many_takers_exactly_one_gets_a_dead_writers_lock(tmp_path: Path) -> None:
    for trial in range(20):
        path = tmp_path / f"lock-{trial}"
        write_holder(path, pid=-1, started=0.0, host="elsewhere")
        os.utime(path, (1e9, 1e9))
        locks, got = [WriterLock(path) for _ in range(6)], []
        barrier = threading.Barrier(len(locks))

        def take(lock: WriterLock, barrier: threading.Barrier = barrier, got: list[WriterLock] = got) -> None:
            barrier.wait()
            if lock.try_acquire():
                got.append(lock)

        threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) <= 1
        assert got or any(lock.try_acquire() for lock in locks)
        assert sum(lock.is_held() for lock in locks) == 1
        for lock in locks:
            lock.release()


def test_a_lost_lock_is_noticed_and_not_removed(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path / "lock")
    assert lock.try_acquire()
    write_holder(tmp_path / "lock")
    assert not lock.is_held()
    lock.release()
    assert (tmp_path / "lock").exists()


def test_exclusive_creation_keeps_the_first_content(tmp_path: Path) -> None:
    assert create_exclusively(tmp_path / "claim", "first")
    assert not create_exclusively(tmp_path / "claim", "second")
    assert (tmp_path / "claim").read_text() == "first"
