"""Snakemake's own suite for executor plugins, on the local executor."""

from __future__ import annotations

from snakemake.common.tests import TestWorkflowsLocalStorageBase

from snakemake_executor_plugin_submitit.settings import ExecutorSettings


class TestConformance(TestWorkflowsLocalStorageBase):
    """The two small workflows that every executor has to run."""

    __test__ = True

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="local")


del TestWorkflowsLocalStorageBase
