"""A program that a stage starts: it ends with the stage, whatever ends that.

What the program itself starts ends with it where the stage ends by its own doing; where the stage is killed, by the job's own
bounds, as Slurm has them and one machine without has not.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PARENT = ThreadPoolExecutor(1)  # the kernel takes the thread that started a process for its parent, and this one stays
_PR_SET_PDEATHSIG = 1


class Child:
    """One process tree in a session of its own, which writes into a file."""

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        orphaned: signal.Signals,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `words`, in `folder`, with its output behind what `log` has.

        `orphaned` is what the kernel sends it when this process is gone. Raises OSError where it cannot be started.
        """
        self.log, self._orphaned = log, orphaned
        self._process = _PARENT.submit(self._start, words, folder, environment).result()

    @property
    def pid(self) -> int:
        """Of the program, and of its process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As it ended, a signal as a negative number; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Whether it ended within these seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def tell(self, sent: signal.Signals) -> None:
        """Send a signal to the program itself, not to what it started."""
        if self.returncode is None:
            self._process.send_signal(sent)

    def end(self, seconds: float) -> None:
        """Ask the whole tree to end, and kill what is left of it after these seconds."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            if not self._send(sent):
                break
            self.wait(seconds)
        self._process.wait()

    def kill(self) -> None:
        """End the whole tree at once."""
        self._send(signal.SIGKILL)
        self._process.wait()

    def last_words(self, most_bytes: int, lines: int = 1) -> str:
        """The end of what it said."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
            text = file.read().decode(errors="replace").strip()
        return "\n".join(text.splitlines()[-lines:]) if text else "it said nothing"

    def _start(
        self, words: Sequence[str], folder: Path | None, environment: Mapping[str, str] | None
    ) -> "subprocess.Popen[bytes]":
        def prepare() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, self._orphaned, 0, 0, 0)  # a GPU must not stay held by what nobody awaits

        with self.log.open("ab") as log:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def _send(self, sent: signal.Signals) -> bool:
        try:
            os.killpg(self.pid, sent)  # its children, too: engines are processes of their own
        except ProcessLookupError:
            return False
        return True
