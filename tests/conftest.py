"""Settings of all tests."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("athanor", deadline=None)  # shared machines: an example may take any time
settings.load_profile("athanor")

# Threads that wait for each other on busy cores make small models ten times slower; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore SIGINT, and under nohup SIGHUP, and so would the drivers that the tests interrupt:
# a handler of this process is the default again in its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, lambda *_: None)

# These start training ranks, drivers or MLflow for nearly every test: they are not unit tests.
START_PROCESSES = (
    "tests/rl/online/test_reward_server.py",
    "tests/training/test_diagnosis.py",
    "tests/training/test_fp8_emulated.py",
    "tests/training/test_conversion.py",
    "tests/training/test_deepspeed.py",
    "tests/training/test_deepspeed_proof.py",
    "tests/training/test_dense.py",
    "tests/training/test_freezing.py",
    "tests/training/test_layouts.py",
    "tests/training/test_loop.py",
    "tests/training/test_monitor.py",
    "tests/training/test_packed.py",
    "tests/training/test_preference.py",
    "tests/training/test_noise_scale.py",
    "tests/training/test_adapters.py",
    "tests/training/test_optimizers.py",
    "tests/training/test_points.py",
    "tests/training/test_prompts.py",
    "tests/training/test_profiling.py",
    "tests/training/test_proof.py",
    "tests/training/test_resume.py",
    "tests/training/test_reward_training.py",
    "tests/training/test_router.py",
    "tests/training/test_saving.py",
    "tests/training/test_sophia.py",
    "tests/training/test_spikes.py",
    "tests/training/test_routing.py",
    "tests/training/test_sharded_state.py",
    "tests/models/test_collectives_cpu.py",
    "tests/models/test_huggingface.py",
    "tests/models/test_import_huggingface.py",
    "tests/rewards/polar/test_server.py",
    "tests/rl/tasks/test_audit.py",
    "tests/training/test_online.py",
    "tests/training/test_online_megatron.py",
    "tests/rl/tasks/test_problems_stage.py",
    "tests/rl/tasks/test_mathematics.py",
    "tests/rl/tasks/test_molecules.py",
    "tests/rl/tasks/test_problems.py",
    "tests/rl/test_handover.py",
    "tests/external/",
    "tests/rl/test_judging.py",
    "tests/tracking/test_drain.py",
    "tests/tracking/test_process.py",
    "tests/evaluation/test_suites.py",
    "tests/evaluation/test_stages.py",
    "tests/snakemake_executor_plugin_submitit/test_conformance.py",
    "tests/snakemake_executor_plugin_submitit/test_launch.py",
    "tests/snakemake_executor_plugin_submitit/test_reattach.py",
    "tests/snakemake_executor_plugin_submitit/test_workflows.py",
)

# These train or evaluate a model: `make test` runs them behind the rest, the long campaigns first.
TRAIN = (
    "tests/lifecycle/",
    "tests/training/test_online_megatron.py",
    "tests/training/test_diagnosis.py",
    "tests/training/test_fp8_emulated.py",
    "tests/training/test_conversion.py",
    "tests/training/test_dense.py",
    "tests/training/test_conversion.py",
    "tests/training/test_deepspeed.py",
    "tests/training/test_deepspeed_proof.py",
    "tests/training/test_dense.py",
    "tests/training/test_freezing.py",
    "tests/training/test_layouts.py",
    "tests/training/test_loop.py",
    "tests/training/test_monitor.py",
    "tests/training/test_packed.py",
    "tests/training/test_preference.py",
    "tests/training/test_noise_scale.py",
    "tests/training/test_adapters.py",
    "tests/training/test_optimizers.py",
    "tests/training/test_points.py",
    "tests/training/test_prompts.py",
    "tests/training/test_profiling.py",
    "tests/training/test_proof.py",
    "tests/training/test_resume.py",
    "tests/training/test_reward_training.py",
    "tests/training/test_router.py",
    "tests/training/test_saving.py",
    "tests/training/test_sophia.py",
    "tests/training/test_spikes.py",
    "tests/training/test_routing.py",
    "tests/models/test_huggingface.py",
    "tests/models/test_import_huggingface.py",
    "tests/evaluation/test_suites.py",
    "tests/evaluation/test_stages.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes as slow, so that `make test-unit` stays under two minutes, and what trains."""
    for item in items:
        if item.nodeid.startswith(START_PROCESSES):
            item.add_marker(pytest.mark.slow)
        if item.nodeid.startswith(TRAIN):
            item.add_marker(pytest.mark.trains)
