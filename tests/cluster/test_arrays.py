"""Equal jobs go to Slurm as one array, and each is still adopted, found, and judged by itself."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.arrays import array_place
from snakemake_executor_plugin_submitit.backend import SlurmBackend
from snakemake_executor_plugin_submitit.journal import Outcome
from snakemake_executor_plugin_submitit.slurm import Slurm

from ..snakemake_executor_plugin_submitit.drivers import DEADLINE_SECONDS, Checkout, interrupt, wait_until
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SHARDS = """
rule all:
    input: expand("shard-{n}.txt", n=range(4)), "other.txt"

rule shard:
    output: "shard-{n}.txt"
    resources: mem_mb=100
    shell: "echo started >> runs.{wildcards.n}; until [ -e gate ]; do sleep 0.05; done; echo {wildcards.n} > {output}"

rule other:
    output: "other.txt"
    resources: mem_mb=200
    shell: "echo started >> runs.other; touch {output}"
"""


def all_started(checkout: Checkout) -> bool:
    return all(checkout.lines(f"runs.{n}") for n in range(4))


def shard_ids(checkout: Checkout) -> list[str]:
    return sorted(attempt.job().id for attempt in checkout.attempts() if attempt.intent().rule == "shard")


def test_equal_jobs_are_one_array_and_each_does_its_own(checkout: Checkout, slurm_cluster: SlurmCluster) -> None:
    checkout.write(SHARDS)
    checkout.write("", "gate")
    checkout.run_well()
    (array,) = {job_id.partition("_")[0] for job_id in shard_ids(checkout)}
    assert shard_ids(checkout) == [f"{array}_{n}" for n in range(4)]
    assert [checkout.lines(f"shard-{n}.txt") for n in range(4)] == [[str(n)] for n in range(4)]
    (other,) = [attempt for attempt in checkout.attempts() if attempt.intent().rule == "other"]
    assert "_" not in other.job().id and array_place(other) is None
    assert f"ArrayJobId={array}" in slurm_cluster.ask("scontrol", "show", "job", f"{array}_2")


def test_array_size_of_one_means_no_arrays(checkout: Checkout) -> None:
    checkout.write(SHARDS)
    checkout.write("", "gate")
    checkout.run_well("--submitit-array-size", "1")
    assert not any("_" in job_id for job_id in shard_ids(checkout))


@pytest.mark.parametrize("recorded", [True, False])
def test_elements_of_a_dead_drivers_array_are_adopted(checkout: Checkout, recorded: bool) -> None:
    checkout.write(SHARDS)
    first = checkout.start()
    wait_until(lambda: all_started(checkout), "the start of all shards")
    interrupt(first, signal.SIGKILL)
    before = shard_ids(checkout)
    shards = [attempt for attempt in checkout.attempts() if attempt.intent().rule == "shard"]
    if not recorded:  # as if the driver had died between sbatch and the records
        for attempt in shards:
            (attempt.folder / "job.json").unlink()
        assert sorted(SlurmBackend(Slurm(30.0)).find(attempt).id for attempt in shards) == before
        for attempt in shards:
            (attempt.folder / "job.json").unlink()
    second = checkout.start("--nolock")
    wait_until(lambda: all(attempt.job() for attempt in shards), "the records of the adopted jobs")
    checkout.write("", "gate")
    said, _ = second.communicate(timeout=DEADLINE_SECONDS)
    assert second.returncode == 0, said
    assert [checkout.lines(f"runs.{n}") for n in range(4)] == [["started"]] * 4
    assert shard_ids(checkout) == before
    assert [checkout.lines(f"shard-{n}.txt") for n in range(4)] == [[str(n)] for n in range(4)]


def test_element_that_fails_is_named_and_the_others_go_on(checkout: Checkout) -> None:
    checkout.write(SHARDS.replace("echo {wildcards.n} >", "[ {wildcards.n} != 2 ] || exit 9; echo {wildcards.n} >"))
    checkout.write("", "gate")
    code, said = checkout.run("--keep-going")
    assert code != 0 and "rank 0 of 1 ended with exit code 9" in said
    outcomes = {attempt.job().id: attempt.end().outcome for attempt in checkout.attempts() if "_" in attempt.job().id}
    assert sorted(outcomes.values()) == [Outcome.FAILED, *[Outcome.SUCCESS] * 3]
    assert [n for n in range(4) if checkout.lines(f"shard-{n}.txt")] == [0, 1, 3]


SILENT_ONCE = """#!/bin/sh
if mkdir {folder}/silenced 2>/dev/null; then
    {before}
    echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
exec {sbatch} "$@"
"""


@pytest.mark.parametrize("taken", [False, True])
def test_submission_that_slurm_did_not_answer_is_made_good_and_not_doubled(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    before = f'{shutil.which("sbatch")} "$@" >&2' if taken else ""
    sbatch.write_text(SILENT_ONCE.format(folder=tmp_path, before=before, sbatch=shutil.which("sbatch")))
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    checkout.write(SHARDS)
    checkout.write("", "gate")
    said = checkout.run_well(deadline_seconds=DEADLINE_SECONDS)
    assert "Slurm doesn't answer" in said
    assert [checkout.lines(f"runs.{n}") for n in (*range(4), "other")] == [["started"]] * 5
