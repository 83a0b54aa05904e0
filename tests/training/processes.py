"""Starts the ranks of a test's training run as processes on this machine, and waits for them.

They are forked from one server that has imported torch and Megatron once: a start costs a tenth of a second instead of
five. How a rank starts in earnest, from nothing, is in `tests/lifecycle`.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.training.program import Job, main

DEADLINE_SECONDS = 400
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.training.program", "athanor.training.initialization", "athanor.training.loop"])


class Rank:
    """One rank: a process with its output in a file."""

    def __init__(self, path: Path, log: Path, variables: dict[str, str]) -> None:
        self._process: ForkServerProcess = SERVER.Process(target=_run, args=(str(path), str(log), variables))
        self._process.start()

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


def _run(path: str, log: str, variables: dict[str, str]) -> None:
    """In the forked process: what a shell would set up for `python -m tests.training.program PATH`."""
    os.environ.update(variables)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(main(path))


def start(job: Job, ranks: int, **variables: str) -> list[Rank]:
    """One process a rank, with `variables` in its environment; their output goes to `rank-K.log` in the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    shared = {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        **variables,
    }
    return [Rank(path, job.folder / f"rank-{rank}.log", {**shared, "RANK": str(rank)}) for rank in range(ranks)]


def run(job: Job, ranks: int = 1, **variables: str) -> list[int]:
    """Exit codes of all ranks, once they have ended."""
    return wait(start(job, ranks, **variables))


def wait(processes: list[Rank]) -> list[int]:
    """Exit codes, once all have ended by themselves; a rank left alone by the others is ended after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        kill(processes)


def kill(processes: list[Rank]) -> None:
    """SIGKILL to all that live."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


def wait_for(paths: list[Path], processes: list[Rank]) -> None:
    """Until all `paths` exist; fails when a process ends before, or after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not all(path.exists() for path in paths):
        if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
            kill(processes)
            raise AssertionError(f"{[p.name for p in paths if not p.exists()]} did not appear: see rank-*.log")
        time.sleep(0.02)


def log(job: Job, rank: int = 0) -> str:
    """What a rank has written so far."""
    return (job.folder / f"rank-{rank}.log").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
