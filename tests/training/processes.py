"""Starts the ranks of a test's training run as processes on this machine, and waits for them."""

import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.training.program import Job

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 400


def start(job: Job, ranks: int, **variables: str) -> list[subprocess.Popen[str]]:
    """One process a rank, with `variables` in its environment; their output goes to `rank-K.log` in the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        **variables,
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.program", str(path)],
            env={**environment, "RANK": str(rank)},
            cwd=ROOT,
            stdout=(job.folder / f"rank-{rank}.log").open("a"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def run(job: Job, ranks: int = 1, **variables: str) -> list[int]:
    """Exit codes of all ranks, once they have ended."""
    return wait(start(job, ranks, **variables))


def wait(processes: list[subprocess.Popen[str]]) -> list[int]:
    """Exit codes, once all have ended by themselves; a rank left alone by the others is ended after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        kill(processes)


def kill(processes: list[subprocess.Popen[str]]) -> None:
    """SIGKILL to all that live."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def wait_for(paths: list[Path], processes: list[subprocess.Popen[str]]) -> None:
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
