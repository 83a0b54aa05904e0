"""A model server of this stage's own: started, asked for its health, started again when it dies, ended with the stage.

Any program will do that serves OpenAI's completions on a port and answers GET /health: vLLM, SGLang, LMDeploy.
"""

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from athanor.artifacts.run import StageError
from athanor.recipe.server_command import problem_with

MODEL_NAME = "policy"  # as requests call the model
POLL_SECONDS = 0.2
HEALTH_SECONDS = 5.0  # one question after the health
END_SECONDS = 20.0  # between asking a server to end and killing it
TAIL = 4096  # bytes of its log in an error
_PR_SET_PDEATHSIG = 1


class Server:
    """One process tree on a free port of this machine's loopback."""

    def __init__(self, command: str, model: Path, log: Path, start_seconds: float) -> None:
        """`command`: a template with the fields {model}, {port} and, where it wants one, {name}, run without a shell.

        A server may take `start_seconds` until it is healthy: it loads the model. Raises StageError where the template is wrong.
        """
        if problem := problem_with(command):
            raise StageError(f"the server's command {command!r} {problem}")
        self._command, self._model, self._log, self._start_seconds = command, model, log, start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = ThreadPoolExecutor(1)  # the kernel takes the thread that started a process for its parent
        self._port = 0
        self.url = ""

    @property
    def log(self) -> Path:
        """What it says."""
        return self._log

    def start(self, *, keep_port: bool = False) -> None:
        """Start it and wait until it is healthy; `keep_port`: where it was asked before, others know it by that.

        Raises StageError, with its last words, where it ends before or is too slow.
        """
        self.stop()
        port = self._port if keep_port and self._port else _free_port()
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        words = shlex.split(self._command.format(model=shlex.quote(str(self._model)), port=port, name=MODEL_NAME))
        try:
            process = self._process = self._parent.submit(self._spawn, words).result()
        except OSError as error:
            raise StageError(f"the server's command cannot be started: {error}") from error
        deadline = time.monotonic() + self._start_seconds
        while not self.is_healthy():
            if not self.is_running():
                raise StageError(f"{words[0]} ended with {process.returncode} before it was healthy: {self._tail()}")
            if time.monotonic() > deadline:
                self.stop()
                advice = f"raise the site's server_seconds, or see: {self._tail()}"
                raise StageError(f"{words[0]} was not healthy after {self._start_seconds:g} s; {advice}")
            time.sleep(POLL_SECONDS)

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def is_healthy(self) -> bool:
        """Whether it says so."""
        try:
            return bool(requests.get(f"{self.url}/health", timeout=HEALTH_SECONDS).ok)
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """End it and all that it started."""
        if self._process is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sent)  # its children, too: engines are processes of their own
            except ProcessLookupError:
                break
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._process = None

    def _spawn(self, words: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_parent
            )

    def _tail(self) -> str:
        text = self._log.read_bytes()[-TAIL:].decode(errors="replace").strip()
        return f"{text.splitlines()[-1] if text else 'it said nothing'} ({self._log})"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # a GPU must not stay held by a stage that was killed
