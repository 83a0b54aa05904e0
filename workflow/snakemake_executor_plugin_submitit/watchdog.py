"""Hang detection, beside the program on every rank: silence of its progress marks, its stacks saved, then the end of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .progress import Mark, newest_mark

_START_FACTOR = 4.0  # a program that is known to leave marks may take this many times the longest silence to its first
_STALL_FACTOR = 4.0  # beats without progress are believed for this many times the longest silence
_POLLS_PER_LIMIT = 10.0
_SHORTEST_POLL, _LONGEST_POLL = 0.2, 60.0
_SMOOTHING = 0.2  # weight of the newest pause in the usual one
_DUMP_SECONDS = 10.0
STACK_SIGNAL = signal.SIGUSR1  # a program that registers faulthandler for it gets its stacks saved where ptrace is forbidden


@dataclass(frozen=True)
class HangRule:
    """When silence is a hang: longer than `seconds` and than `multiple` of the program's own usual pause. 0 s: never."""

    seconds: float = 0.0
    multiple: float = 10.0
    marks: bool = False
    """The program is known to mark its progress, so that silence from the start means something."""


@dataclass
class Watchdog:
    """Looks at the marks in an attempt's folder, as often as the rule needs; clocks of other machines don't matter."""

    folder: Path
    rule: HangRule
    _seen: Mark | None = None
    _beat: float = 0.0
    _advanced: float = 0.0
    _usual: float = 0.0
    _live: bool = False
    _known: bool = False

    def __post_init__(self) -> None:
        self._beat = self._advanced = time.monotonic()
        self._seen = newest_mark(self.folder)  # of an earlier start of the same job
        self._known = self.rule.marks or any(self.folder.parent.glob("[0-9]*/heartbeat-*.json"))

    @property
    def poll_seconds(self) -> float | None:
        """Seconds between two looks; None when nobody has to look."""
        if not self.rule.seconds:
            return None
        return min(_LONGEST_POLL, max(_SHORTEST_POLL, self.rule.seconds / _POLLS_PER_LIMIT))

    def hang(self) -> str:
        """Look once; say in words what makes the program hang, empty while it doesn't."""
        now, mark = time.monotonic(), newest_mark(self.folder)
        if mark is not None and mark != self._seen:
            if self._live:
                pause = now - self._beat
                self._usual = pause if not self._usual else (1 - _SMOOTHING) * self._usual + _SMOOTHING * pause
            if not self._live or self._seen is None or mark.done != self._seen.done:
                self._advanced = now
            self._live, self._seen, self._beat = True, mark, now
        if not self._live or self._seen is None:
            # A start takes longer than a step; of a program that has never left a mark, silence says nothing.
            silent = now - self._beat > _START_FACTOR * self.rule.seconds
            return f"no mark for {now - self._beat:.0f} s since its start" if self._known and silent else ""
        limit = max(self.rule.seconds, self.rule.multiple * self._usual)
        at = f"at {self._seen.done} {self._seen.unit}".rstrip()
        if now - self._beat > limit:
            return f"no mark for {now - self._beat:.0f} s {at}; usually one in {self._usual:.0f} s"
        if now - self._advanced > _STALL_FACTOR * limit:
            return f"no progress for {now - self._advanced:.0f} s {at}, though it goes on to mark it"
        return ""


def save_stacks(group: int, path: Path) -> str:
    """Write the stacks of every process in the process group to `path`; return by which means.

    py-spy sees a process from outside where ptrace is permitted. Where it isn't, processes that registered a handler for
    STACK_SIGNAL (faulthandler) write their own. Others are left alone: the signal would end them.
    """
    members = _members(group)
    spy = shutil.which("py-spy", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))
    means = []
    for pid in members:
        if spy is not None and _spy(spy, pid, path):
            means.append("py-spy")
        elif _handles(pid, STACK_SIGNAL):
            os.kill(pid, STACK_SIGNAL)
            means.append("faulthandler")
    if "faulthandler" in means:
        time.sleep(0.5)  # the program writes them itself
    return ", ".join(sorted(set(means))) or "nothing"


def stacks_file(folder: Path, rank: int) -> Path:
    """Where a rank's stacks are saved."""
    return folder / f"stacks-{rank}.txt"


def _spy(spy: str, pid: int, path: Path) -> bool:
    try:
        dump = subprocess.run(
            [spy, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=_DUMP_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    if dump.returncode != 0:
        return False
    with path.open("a", encoding="utf-8") as file:
        file.write(dump.stdout + "\n")
    return True


def _members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(entry.name))
    return sorted(found)


def _handles(pid: int, number: signal.Signals) -> bool:
    """Say whether the process has a handler for the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)
