"""Starts the ranks of a test's training run as processes on this machine, and waits for them."""

import pickle

from tests import ranks as warm
from tests.ranks import Rank, kill, wait, wait_for
from tests.training.program import Job, main

__all__ = ["kill", "log", "run", "start", "wait", "wait_for"]


def start(job: Job, ranks: int, **variables: str) -> list[Rank]:
    """One process a rank, with `variables` in its environment; their output goes to `rank-K.log` in the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    return warm.start(main, str(path), logs=[job.folder / f"rank-{rank}.log" for rank in range(ranks)], **variables)


def run(job: Job, ranks: int = 1, **variables: str) -> list[int]:
    """Exit codes of all ranks, once they have ended."""
    return wait(start(job, ranks, **variables))


def log(job: Job, rank: int = 0) -> str:
    """What a rank has written so far."""
    return (job.folder / f"rank-{rank}.log").read_text()
