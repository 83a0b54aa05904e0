"""Silence of progress marks: what is a hang, what is not, and what is saved before the end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit import watchdog
from snakemake_executor_plugin_submitit.causes import gather, judge
from snakemake_executor_plugin_submitit.journal import Action
from snakemake_executor_plugin_submitit.watchdog import HangRule, Watchdog

from .drivers import Submit, wait_until


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watchdog.time, "monotonic", made.monotonic)
    return made


def mark(folder: Path, time: float, done: int, node: str = "node1") -> None:
    content = {"time": time, "done": done, "total": 100, "unit": "steps"}
    (folder / f"heartbeat-{node}.json").write_text(json.dumps(content))


def seconds_to_hang(dog: Watchdog, clock: Clock, limit: float = 10_000.0) -> float | None:
    began = clock.now
    while clock.now < began + limit:
        if dog.hang():
            return clock.now - began
        clock.now += 1
    return None


def test_program_that_never_marks_progress_never_hangs(tmp_path: Path, clock: Clock) -> None:
    assert seconds_to_hang(Watchdog(tmp_path, HangRule(10, 2)), clock) is None


def test_program_that_is_known_to_mark_progress_may_take_longer_to_its_first_mark(tmp_path: Path, clock: Clock) -> None:
    assert seconds_to_hang(Watchdog(tmp_path, HangRule(10, 2, marks=True)), clock) == pytest.approx(41, abs=1)


@pytest.mark.parametrize("attempt", ["001", "002"])
def test_program_that_left_marks_before_is_known_to(tmp_path: Path, clock: Clock, attempt: str) -> None:
    for name in ("001", "002"):
        (tmp_path / name).mkdir()
    mark(tmp_path / attempt, 1, 50)
    dog = Watchdog(tmp_path / "002", HangRule(10, 2))
    assert seconds_to_hang(dog, clock) == pytest.approx(41, abs=1)
    assert "since its start" in dog.hang()


def test_silence_beyond_the_rule_is_a_hang(tmp_path: Path, clock: Clock) -> None:
    dog = Watchdog(tmp_path, HangRule(60, 2))
    mark(tmp_path, 1, 5)
    assert dog.hang() == ""
    assert seconds_to_hang(dog, clock) == pytest.approx(61, abs=1)
    assert "at 5 steps" in dog.hang()


def test_slow_program_may_be_silent_for_a_multiple_of_its_usual_pause(tmp_path: Path, clock: Clock) -> None:
    dog = Watchdog(tmp_path, HangRule(60, 5))
    for step in range(20):
        mark(tmp_path, clock.now, step)
        assert dog.hang() == ""
        clock.now += 100
    assert seconds_to_hang(dog, clock) == pytest.approx(401, abs=2)  # 100 s have passed since the last


def test_marks_without_progress_are_a_hang_later(tmp_path: Path, clock: Clock) -> None:
    dog = Watchdog(tmp_path, HangRule(60, 2))
    said, began = "", clock.now
    while not said and clock.now < began + 10_000:
        mark(tmp_path, clock.now, 5)
        said = dog.hang()
        clock.now += 10
    assert "though it goes on to mark it" in said
    assert clock.now - began == pytest.approx(250, abs=20)


HANGING = """
import faulthandler, json, os, signal, time, pathlib
folder = pathlib.Path(os.environ["SUBMITIT_ATTEMPT_FOLDER"])
faulthandler.register(signal.SIGUSR1, file=open(folder / f"stacks-{os.environ['RANK']}.txt", "a"))
def stuck_in_a_collective():
    time.sleep(1000)
draft = folder / f".heartbeat-{os.environ['RANK']}"
draft.write_text(json.dumps({"time": time.time(), "done": 3, "total": 9, "unit": "steps"}))
draft.rename(folder / f"heartbeat-{os.environ['RANK']}.json")
stuck_in_a_collective()
"""


@pytest.mark.parametrize("spy", [True, False])
def test_hang_saves_the_stacks_of_all_ranks_and_ends_the_job(
    submitted: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spy: bool
) -> None:
    if not spy:  # as where ptrace is forbidden
        refusing = tmp_path / "bin" / "py-spy"
        refusing.parent.mkdir()
        refusing.write_text("#!/bin/sh\nexit 1\n")
        refusing.chmod(0o755)
        monkeypatch.setenv("PATH", f"{refusing.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "hanging.py").write_text(HANGING)
    attempt = submitted(f"exec {sys.executable} hanging.py", ranks=2, hang=HangRule(1.0, 1.0))
    wait_until(attempt.end, "the end of the job")
    judgement = judge(gather(attempt, attempt.end()))
    assert (judgement.cause, judgement.action) == ("hang", Action.RESTART)
    for rank in range(2):
        assert "stuck_in_a_collective" in (attempt.folder / f"stacks-{rank}.txt").read_text()
        note = json.loads((attempt.folder / f"exit-{rank}.json").read_text())
        assert "at 3 steps" in note["cause"]


def test_hang_whose_note_cannot_be_written_is_ended_all_the_same(submitted: Submit, tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    command = f"echo $$ > pid; mkdir $SUBMITIT_ATTEMPT_FOLDER/exit-0.json; exec {sys.executable} hanging.py"
    attempt = submitted(command, hang=HangRule(1.0, 1.0))
    wait_until(attempt.end, "the end of the job")
    assert attempt.end().exit_code == 137
    wait_until(lambda: not Path("/proc", (tmp_path / "pid").read_text().strip()).exists(), "the end of the program")


def test_program_does_not_outlive_its_killed_launcher(submitted: Submit, tmp_path: Path) -> None:
    attempt = submitted("echo $PPID > launcher; echo $$ > pid; exec sleep 600")
    wait_until((tmp_path / "pid").exists, "the start of the program")
    wait_until(lambda: (tmp_path / "pid").read_text().strip(), "its pid")
    os.kill(int((tmp_path / "launcher").read_text()), signal.SIGKILL)
    wait_until(lambda: not Path("/proc", (tmp_path / "pid").read_text().strip()).exists(), "the end of the program")
    wait_until(attempt.end, "the end of the job")
