"""A model server of this stage's own: started, asked for its health, started again when it dies, ended with the stage.

Any program will do that serves OpenAI's completions on a port and answers GET /health: vLLM, SGLang, LMDeploy.
"""

import itertools
import shlex
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import requests

from athanor.artifacts.run import StageError
from athanor.recipe.server_command import problem_with, reload_request
from athanor.rl.child import Child

MODEL_NAME = "policy"  # as requests call the model
POLL_SECONDS = 0.2
STARTS = 4  # of a server that something kills before it is healthy
HEALTH_SECONDS = 5.0  # one question after the health
END_SECONDS = 20.0  # between asking a server to end and killing it
TAIL = 4096  # bytes of its log in an error


class Server:
    """One process tree on a free port of this machine's loopback."""

    def __init__(self, command: str, model: Path, log: Path, start_seconds: float) -> None:
        """`command`: a template with the fields {model}, {port} and, where it wants one, {name}, run without a shell.

        A server may take `start_seconds` until it is healthy: it loads the model. Raises StageError where the template is wrong.
        """
        if problem := problem_with(command):
            raise StageError(f"the server's command {command!r} {problem}")
        self._command, self._model, self._log, self._start_seconds = command, model, log, start_seconds
        self._child: Child | None = None
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
        for tries in itertools.count(1):
            child = self._begin(words)
            if self._is_up(child, words[0]):
                return
            said = f"{words[0]} ended with {child.returncode} before it was healthy: {child.last_words(TAIL)} ({self._log})"
            killed = self._child is child and (child.returncode or 0) < 0  # by something else than `stop`
            if not killed or tries == STARTS:
                raise StageError(said)
            print(f"{said}; it is started again", flush=True)

    def _begin(self, words: list[str]) -> Child:
        try:
            self._child = Child(words, self._log, signal.SIGTERM)
        except OSError as error:
            raise StageError(f"the server's command cannot be started: {error}") from error
        return self._child

    def _is_up(self, child: Child, name: str) -> bool:
        """Whether it became healthy; False where it ended before. Raises StageError where it is too slow."""
        deadline = time.monotonic() + self._start_seconds
        while not self.is_healthy():
            if child.returncode is not None:
                return False
            if time.monotonic() > deadline:
                self.stop()
                advice = f"raise the site's server_seconds, or see: {child.last_words(TAIL)} ({self._log})"
                raise StageError(f"{name} was not healthy after {self._start_seconds:g} s; {advice}")
            time.sleep(POLL_SECONDS)
        return True

    def reload(self, told: Sequence[str]) -> None:
        """Have it read the weights that its folder has now. Raises StageError where it refuses, is gone or is too slow."""
        for request in told:
            path, body = reload_request(request, str(self._model))
            headers = {"Content-Type": "application/json"}
            try:
                found = requests.post(f"{self.url}{path}", data=body, headers=headers, timeout=self._start_seconds)
            except requests.RequestException as error:
                raise StageError(f"the model server does not read other weights by {path}: {error}") from error
            if not found.ok:
                raise StageError(
                    f"the model server does not read other weights by {path}: {found.status_code} {found.text[:300]}"
                )

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._child is not None and self._child.returncode is None

    def is_healthy(self) -> bool:
        """Whether it says so."""
        return self.health() is not None

    def health(self) -> bytes | None:
        """What it says of its health; None where it is not well."""
        try:
            found = requests.get(f"{self.url}/health", timeout=HEALTH_SECONDS)
        except requests.RequestException:
            return None
        return found.content if found.ok else None

    def stop(self) -> None:
        """End it and all that it started."""
        child, self._child = self._child, None  # first: a thread that waits for its health is not to start another
        if child is not None:
            child.end(END_SECONDS)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
