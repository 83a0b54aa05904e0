"""A workflow folder whose drivers and jobs are gone when the test is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.journal import JobKind
from snakemake_executor_plugin_submitit.processes import is_alive

from .drivers import SOURCE_ROOT, Checkout, Submit, wait_until


def end_local_jobs(checkout: Checkout, root: str = ".submitit") -> None:
    """End the local jobs that a test has left running."""
    for attempt in checkout.attempts(root):
        job = attempt.job()
        if job is not None and job.kind is JobKind.LOCAL and job.process is not None and is_alive(job.process):
            os.kill(job.process.pid, signal.SIGTERM)
            wait_until(lambda process=job.process: not is_alive(process), "the controller's end")


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits single attempts below the test's folder."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE_ROOT))
    return Submit(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """An empty workflow folder on the local executor."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    checkout = Checkout(folder)
    yield checkout
    end_local_jobs(checkout)
    store = tmp_path / "store"
    if store.exists():
        end_local_jobs(Checkout(tmp_path), "store")
