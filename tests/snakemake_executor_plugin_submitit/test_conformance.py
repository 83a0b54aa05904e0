"""Snakemake's own suite for executor plugins, on the local executor."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from snakemake.common.tests import TestWorkflowsLocalStorageBase

from snakemake_executor_plugin_submitit.settings import ExecutorSettings


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Put back the handlers that a Snakemake in this process replaces: SIGTERM would not end pytest any more."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class TestConformance(TestWorkflowsLocalStorageBase):
    """The two small workflows that every executor has to run."""

    __test__ = True

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="local")


del TestWorkflowsLocalStorageBase
