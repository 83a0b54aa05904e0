"""While the driver runs: one line a stage with progress, rate and time left, and the MLflow writer beside it."""

import sys
import threading
import time
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from athanor.campaign.campaign import Campaign
from athanor.campaign.state import Progress, State, failures_of, progress_of, state_of
from athanor.campaign.summary import facts
from athanor.recipe.graph import Artifact
from athanor.recipe.units import Unit, format_quantity

PLAIN_EVERY_SECONDS = 15.0  # between two lines of the same stage where lines cannot be rewritten
LOG = "progress.log"


class Watch:
    """A thread of the driver that reads the artifacts' folders and says what changed."""

    def __init__(self, campaign: Campaign, console: Console | None = None) -> None:
        self._campaign = campaign
        self._console = console or Console(stderr=True, highlight=False)
        self._pending = campaign.missing()
        self._total, self._done = len(self._pending), 0
        self._seen: dict[str, State] = {}
        self._said: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._console.print(f"campaign {self._campaign.name}: {self._total} stages to make, store {self._campaign.store.root}")
        self._thread.start()

    def stop(self) -> None:
        """Say the last changes and end."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with open(self._campaign.folder / LOG, "a", encoding="utf-8") as log:
            if not self._console.is_terminal:
                while not self._ending.wait(self._interval()):
                    self._tick(log)
                self._tick(log)
                return
            with Live(console=self._console, refresh_per_second=4, transient=True) as live:
                while not self._ending.wait(self._interval()):
                    live.update(Group(*self._tick(log)))
                live.update(Group(*self._tick(log)))

    def _interval(self) -> float:
        """A second, or longer where thousands of folders are to be looked at on a shared file system."""
        return max(1.0, len(self._pending) / 500)

    def _tick(self, log: TextIO) -> list[Text]:
        """Look once; lines that stay are printed, the running stages' lines are returned."""
        running = []
        for artifact in list(self._pending):
            state = state_of(self._campaign.store.folder(artifact))
            if state is not self._seen.get(artifact.name):
                self._changed(artifact, state, log)
            if state is State.RUNNING:
                running.append(self._running_line(artifact, log))
        return [*running, Text(f"{self._done} of {self._total} stages done", style="dim")]

    def _changed(self, artifact: Artifact, state: State, log: TextIO) -> None:
        before = self._seen.get(artifact.name)
        self._seen[artifact.name] = state
        if state is State.RUNNING:
            self._began[artifact.name] = time.monotonic()
            self._say(f"{artifact.name:24} started", log, on_terminal=False)
        elif state is State.DONE:
            self._pending.remove(artifact)
            self._done += 1
            self._say(f"{artifact.name:24} done {self._done}/{self._total}  {self._facts(artifact)}", log)
        elif state is State.FAILED and before is not None:
            cause = next(failures_of(self._campaign.store.folder(artifact)), "see its log")
            self._say(f"{artifact.name:24} FAILED: {cause}", log)

    def _facts(self, artifact: Artifact) -> str:
        manifest = self._campaign.store.manifest(artifact)
        if manifest is None:
            return ""
        return f"{manifest.provenance.seconds:.1f} s  {facts(manifest)}"

    def _running_line(self, artifact: Artifact, log: TextIO) -> Text:
        seconds = time.monotonic() - self._began.get(artifact.name, time.monotonic())
        progress = progress_of(self._campaign.store.folder(artifact))
        shown = describe(progress) if progress else f"running {seconds:.0f} s"
        if progress and time.monotonic() - self._said.get(artifact.name, 0.0) > PLAIN_EVERY_SECONDS:
            self._said[artifact.name] = time.monotonic()
            self._say(f"{artifact.name:24} {shown}", log, on_terminal=False)
        return Text(f"{artifact.name:24} {shown}")

    def _say(self, line: str, log: TextIO, on_terminal: bool = True) -> None:
        stamp = time.strftime("%H:%M:%S")
        log.write(f"{time.strftime('%Y-%m-%d')} {stamp} {line}\n")
        log.flush()
        if on_terminal or not self._console.is_terminal:
            self._console.print(f"{stamp} {line}", markup=False, soft_wrap=True)


def describe(progress: Progress) -> str:
    """`41 %  410K of 1M tokens  4200 tokens/s  2 min 20 s left`; shares only where the total is known."""
    text = f"{_count(progress.done)} {progress.unit}"
    if progress.total:
        share = min(100, 100 * progress.done / progress.total)
        text = f"{share:3.0f} %  {_count(progress.done)} of {_count(progress.total)} {progress.unit}"
    if progress.rate > 0:
        rate = _count(int(progress.rate)) if progress.rate >= 10 else f"{progress.rate:.1f}"
        text += f"  {rate} {progress.unit}/s"
        text += f"  {duration(progress.seconds_left or 0.0)} left" if progress.total else ""
    return text


def print_failures(campaign: Campaign, out: TextIO | None = None) -> None:
    """Two lines a failed stage: what happened, and what to type next."""
    stream = out or sys.stderr
    failed: Iterable[Artifact] = [a for a in campaign.missing() if state_of(campaign.store.folder(a)) is State.FAILED]
    for artifact in failed:
        cause = next(failures_of(campaign.store.folder(artifact)), "the job ended without saying why")
        print(f"{artifact.name} failed: {cause}", file=stream)
        print(f"  look: athanor logs {artifact.name}    continue: type the same snakemake command again", file=stream)


def _count(number: int) -> str:
    if number < 10_000:
        return str(number)
    magnitude = 10 ** (len(str(number)) - 3)  # three digits say enough on a progress line
    return format_quantity(number // magnitude * magnitude, Unit.TOKENS)


def duration(seconds: float) -> str:
    """`2 h 5 min`, `2 min 20 s`, `20 s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
