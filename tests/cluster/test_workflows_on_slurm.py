"""Snakemake's own suite for executors and the workflows of others, unchanged, on a real Slurm."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.settings import ExecutorSettings

from ..snakemake_executor_plugin_submitit import test_conformance
from ..snakemake_executor_plugin_submitit.test_conformance import signals  # noqa: F401 - a fixture of every test here
from ..snakemake_executor_plugin_submitit.test_workflows import (  # noqa: F401 - collected here, with this folder's checkout
    test_workflow_of_the_tutorial_runs_unchanged,
    test_workflow_that_is_done_has_nothing_left_to_do,
    test_workflow_with_checkpoint_shadow_script_and_group_runs_unchanged,
    test_workflow_with_scatter_gather_retries_and_a_group_of_two_runs_unchanged,
)

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm_cluster")]


class TestConformanceOnSlurm(test_conformance.TestConformance):
    """The two small workflows that every executor has to run."""

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="slurm")
