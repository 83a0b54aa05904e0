"""The writer as a process: it follows its driver, steps aside for another, and dies without harm."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.tracking.destination import Destination
from athanor.tracking.process import follow, start_writer_process
from athanor.tracking.spool import Status
from athanor.tracking.writer import Summary, Writer, summary, sync
from tests.tracking.snapshot import points_of, run_count, runs_of
from tests.tracking.synthetic import PATHS, PRETRAIN, log_curve, open_spool, write_campaign

DEADLINE_SECONDS = 120.0


def until(happened: Callable[[], bool]) -> None:
    """Poll, since what is waited for happens in another process."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def driver() -> "subprocess.Popen[bytes]":
    """A process that lives until its input is closed."""
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


@pytest.mark.slow
def test_writer_follows_a_growing_spool_survives_sigkill_and_ends_with_its_driver(store: Path) -> None:
    drivers = [driver(), driver()]
    spool = open_spool(store, PRETRAIN)
    log_curve(spool, range(500))
    first = start_writer_process(store, "tiny", PATHS, follow_pid=drivers[0].pid, poll_seconds=0.1)
    until(lambda: summary(store, "tiny", PATHS).records > 0)
    os.kill(first.pid, signal.SIGKILL)
    log_curve(spool, range(500, 900))

    second = start_writer_process(store, "tiny", PATHS, follow_pid=drivers[1].pid, poll_seconds=0.1)
    until(lambda: summary(store, "tiny", PATHS).behind == 0)
    spool.end(Status.FINISHED)
    for process in drivers:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    until(lambda: not second.is_alive)
    assert second.stop() == Summary(runs=1, records=902, behind=0)
    run = runs_of(store)["pretrain/400K"]
    assert run.info.status == "FINISHED"
    assert [step for step, _, _ in points_of(store, run)["tokens"]] == list(range(900))
    assert not (Destination(store).lock_path("tiny")).exists()


@pytest.mark.slow
def test_stop_drains_what_is_left_and_a_second_writer_stands_by(store: Path) -> None:
    write_campaign(store)
    writers = [start_writer_process(store, "tiny", PATHS, follow_pid=os.getpid(), poll_seconds=0.1) for _ in range(2)]
    until(lambda: summary(store, "tiny", PATHS).behind == 0)
    assert all(writer.is_alive for writer in writers)
    holder = json.loads(Destination(store).lock_path("tiny").read_text())["pid"]
    at_work, standing_by = sorted(writers, key=lambda writer: writer.pid != holder)
    spool = open_spool(store, PRETRAIN, attempt=2)
    log_curve(spool, range(41, 50))
    spool.end(Status.FINISHED)
    assert at_work.stop().behind == 0
    assert standing_by.stop() == Summary(runs=9, records=72, behind=0)
    assert run_count(store) == 10


@pytest.mark.slow
def test_stop_of_a_writer_that_is_still_starting_drains_everything(store: Path) -> None:
    write_campaign(store)
    writer = start_writer_process(store, "tiny", PATHS, follow_pid=os.getpid())
    assert writer.stop() == Summary(runs=8, records=61, behind=0)


def test_sync_beside_a_running_writer_says_so_and_writes_nothing(store: Path) -> None:
    write_campaign(store)
    writer = Writer(Destination(store), "tiny", PATHS, print)
    assert writer.begin()
    result = sync(store, "tiny", PATHS)
    assert "writer of the running campaign" in result.problem and result.runs == 0
    writer.release()
    assert sync(store, "tiny", PATHS).behind == 0


def test_follow_tries_again_when_mlflow_comes_back(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_campaign(store)
    in_the_way = store / "mlflow" / "mlflow.db"
    in_the_way.mkdir(parents=True)
    writer, ending = Writer(Destination(store), "tiny", PATHS, print), threading.Event()
    asked = 0

    def is_over() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:  # two rounds have failed
            in_the_way.rmdir()
        return asked > 3 and summary(store, "tiny", PATHS).behind == 0

    assert follow(writer, ending, is_over, poll_seconds=0.01)
    writer.release()
    assert str(summary(store, "tiny", PATHS)) == "8 runs, 61 records in MLflow, nothing is missing"


def test_a_live_artifact_is_looked_at_in_every_round_and_the_others_in_turn(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athanor.tracking.writer.LOOKED_AT_ONCE", 2)
    write_campaign(store, points=5)
    spool = open_spool(store, PRETRAIN, attempt=2)
    writer = Writer(Destination(store), "tiny", PATHS, print)
    assert writer.begin()
    writer.drain_once(everything=True)
    for step in range(6, 12):
        log_curve(spool, [step])
        assert writer.drain_once() == 1
    quiet = sorted(set(PATHS) - {PRETRAIN.path})
    for artifact in quiet:
        other = store / artifact / "tracking" / "001.jsonl"
        with open(other, "ab") as file:
            file.write(b'{"schema_version":1,"seq":1000,"time":1.0,"step":0,"kind":"metrics","payload":{"late":1}}\n')
    assert sum(writer.drain_once() for _ in range(4)) == len(quiet)
    writer.release()
