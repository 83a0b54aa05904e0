"""A submission that fails: refused for good, or not answered and to be tried again."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from snakemake_executor_plugin_submitit.executor import Executor
from snakemake_executor_plugin_submitit.journal import Attempt, Outcome
from snakemake_executor_plugin_submitit.local import LocalQueue, Machine
from snakemake_executor_plugin_submitit.slurm import SlurmUnavailable
from snakemake_executor_plugin_submitit.submission import Retry


def try_to_submit(folder: Path, error: Exception) -> tuple[str | None, SimpleNamespace]:
    """What an executor makes of a submission that raises `error`, and the job."""
    executor = object.__new__(Executor)  # Snakemake's own constructor starts threads
    executor.queue, executor.running = LocalQueue(Machine(1, 1000)), {}
    executor.logger, executor._storage_warned = logging.getLogger(__name__), False
    tracked = SimpleNamespace(job=SimpleNamespace(name="a"), uid="uid", attempt=Attempt(folder), retry=Retry())

    def submit() -> None:
        raise error

    return executor._try([tracked], submit), tracked  # type: ignore[list-item]


@pytest.mark.parametrize("error", [SlurmUnavailable("no answer"), OSError(errno.ENOSPC, "full"), OSError(errno.ESTALE, "away")])
def test_submission_without_an_answer_is_tried_again(tmp_path: Path, error: Exception) -> None:
    problem, tracked = try_to_submit(tmp_path, error)
    assert problem is None and tracked.retry.is_open and Attempt(tmp_path).end() is None


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "no"), RuntimeError("no")]
)
def test_submission_that_is_refused_fails_the_job_and_not_the_driver(tmp_path: Path, error: Exception) -> None:
    problem, tracked = try_to_submit(tmp_path, error)
    assert problem is not None and problem.startswith("submission failed") and not tracked.retry.is_open
    assert Attempt(tmp_path).end().outcome is Outcome.FAILED
