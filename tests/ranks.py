"""Ranks of a test's program as processes on this machine, forked from one server that has imported torch and Megatron.

A start costs a tenth of a second instead of five (where there is a GPU, five). How a rank starts in earnest, from nothing, is in
`tests/lifecycle`.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 400
# Who has looked for a CUDA device cannot use one in a forked child: where there is one, ranks start from nothing.
SERVER = multiprocessing.get_context("spawn" if Path("/dev/nvidiactl").exists() else "forkserver")
SERVER.set_forkserver_preload(
    [
        "athanor.training.initialization",
        "athanor.training.loop",
        "athanor.training.deepspeed.language",
        "transformers.models.qwen3.modeling_qwen3",
    ]
)


class Rank:
    """One rank: a process with its output in a file."""

    def __init__(self, target: Callable[..., Any], arguments: tuple[Any, ...], log: Path, variables: dict[str, str]) -> None:
        process: BaseProcess = SERVER.Process(target=_run, args=(target, arguments, str(log), variables))
        process.start()
        self.log, self._process = log, process

    def poll(self) -> int | None:
        """Its exit code, minus the signal where one ended it; None while it lives."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code once it has ended. Raises TimeoutError."""
        self._process.join(seconds)
        if (code := self._process.exitcode) is None:
            raise TimeoutError(f"a rank has not ended in {seconds} s")
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Has no effect on one that has ended."""
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, number)


def start(target: Callable[..., Any], *arguments: Any, logs: list[Path], **variables: str) -> list[Rank]:
    """One process for each of `logs`, which calls `target` and exits with what it returns; `variables` are added to its
    environment."""
    shared = {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(len(logs)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        **variables,
    }
    return [Rank(target, arguments, log, {**shared, "RANK": str(rank)}) for rank, log in enumerate(logs)]


def wait(ranks: list[Rank]) -> list[int]:
    """Exit codes, once all have ended by themselves; a rank left alone by the others is ended after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        return [rank.wait(max(0.1, deadline - time.monotonic())) for rank in ranks]
    finally:
        kill(ranks)


def kill(ranks: list[Rank]) -> None:
    """SIGKILL to all that live."""
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    for rank in ranks:
        rank.wait()


def wait_for(paths: list[Path], ranks: list[Rank]) -> None:
    """Until all `paths` exist; fails when a process ends before, or after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not all(path.exists() for path in paths):
        if any(rank.poll() is not None for rank in ranks) or time.monotonic() > deadline:
            kill(ranks)
            raise AssertionError(f"{[p.name for p in paths if not p.exists()]} did not appear: see {ranks[0].log}")
        time.sleep(0.02)


def _run(target: Callable[..., Any], arguments: tuple[Any, ...], log: str, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(target(*arguments))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
