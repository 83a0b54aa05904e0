"""What a driver decides about a job that others may have touched, without running any."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace as changed
from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.backend import LocalBackend
from snakemake_executor_plugin_submitit.journal import (
    Acceptance,
    Attempt,
    End,
    Intent,
    JobFolder,
    JobKind,
    JobRecord,
    Outcome,
    write_exclusively,
)
from snakemake_executor_plugin_submitit.processes import ProcessName, name_of, this_process
from snakemake_executor_plugin_submitit.reattach import Step, Wanted, examine
from snakemake_executor_plugin_submitit.slurm import SlurmUnavailable

BACKENDS = {JobKind.LOCAL: LocalBackend()}


def dead_process() -> ProcessName:
    return changed(this_process(), started="0@nowhere")


@pytest.fixture
def live_process():
    """Another process of this machine."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield name_of(process.pid)
    process.communicate()


def wanted(folder: Path, **values: object) -> Wanted:
    return changed(Wanted("rule", JobFolder(folder), "spec", this_process(), time.time(), 0.0, ()), **values)


def attempt_of(folder: Path, driver: ProcessName, spec: str = "spec") -> Attempt:
    intent = Intent("key", "uid", spec, JobKind.LOCAL, "rule", "old command", 1, driver, "me")
    attempt = JobFolder(folder).claim(1, intent)
    assert attempt is not None
    return attempt


def test_job_that_nobody_ran_is_claimed(tmp_path: Path) -> None:
    verdict = examine(wanted(tmp_path), BACKENDS)
    assert (verdict.step, verdict.number) == (Step.CLAIM, 1)


def test_attempt_that_a_live_driver_is_submitting_is_waited_for(tmp_path: Path, live_process: ProcessName) -> None:
    attempt_of(tmp_path, live_process)
    assert examine(wanted(tmp_path), BACKENDS).step is Step.WAIT


def test_attempt_of_a_dead_driver_is_closed_so_that_its_job_cannot_start_any_more(tmp_path: Path) -> None:
    attempt = attempt_of(tmp_path, dead_process())
    verdict = examine(wanted(tmp_path), BACKENDS)
    assert (verdict.step, verdict.number) == (Step.CLAIM, 2)
    assert attempt.end().outcome is Outcome.LOST
    assert not write_exclusively(attempt.folder, JobRecord(JobKind.LOCAL, "1", this_process()))


def test_live_job_is_adopted_and_refused_when_its_command_changed(tmp_path: Path, live_process: ProcessName) -> None:
    attempt = attempt_of(tmp_path, dead_process())
    write_exclusively(attempt.folder, JobRecord(JobKind.LOCAL, "1", live_process))
    assert examine(wanted(tmp_path), BACKENDS).step is Step.ADOPT
    with pytest.raises(WorkflowError, match="old command"):
        examine(wanted(tmp_path, spec="another"), BACKENDS)
    assert attempt.end() is None


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ({}, Step.ACCEPT),
        ({"spec": "another"}, Step.CLAIM),
        ({"outputs": (Path("/no/such/output"),), "since": 1e12}, Step.CLAIM),
        ({"outputs": (Path("/no/such/output"),), "since": 0.0}, Step.ACCEPT),
        ({"inputs_changed": 1e12}, Step.CLAIM),
    ],
)
def test_success_that_nobody_took_is_accepted_when_it_answers_what_is_wanted(
    tmp_path: Path, values: dict[str, object], step: Step
) -> None:
    attempt_of(tmp_path, dead_process()).finish(End(Outcome.SUCCESS))
    assert examine(wanted(tmp_path, **values), BACKENDS).step is step


def test_success_that_was_taken_counts_only_for_drivers_of_its_time(tmp_path: Path) -> None:
    attempt = attempt_of(tmp_path, dead_process())
    attempt.finish(End(Outcome.SUCCESS))
    write_exclusively(attempt.folder, Acceptance(dead_process()))
    assert examine(wanted(tmp_path, since=time.time() - 60), BACKENDS).step is Step.ACCEPT
    assert examine(wanted(tmp_path, since=time.time() + 60), BACKENDS).step is Step.CLAIM


def test_failure_leads_to_the_next_attempt(tmp_path: Path) -> None:
    attempt_of(tmp_path, dead_process()).finish(End(Outcome.FAILED))
    verdict = examine(wanted(tmp_path), BACKENDS)
    assert (verdict.step, verdict.number) == (Step.CLAIM, 2)


class LateBackend:
    """A Slurm that answers late: the job ends, and its output appears, while it is asked."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def conclude(self, attempt: Attempt, job: JobRecord) -> End:
        self.output.touch()
        return End(Outcome.SUCCESS)


def test_job_that_ends_while_slurm_is_asked_is_not_run_again(tmp_path: Path) -> None:
    attempt = attempt_of(tmp_path, dead_process())
    write_exclusively(attempt.folder, JobRecord(JobKind.SLURM, "7"))
    output = tmp_path / "output"
    late = {JobKind.SLURM: LateBackend(output)}
    assert examine(wanted(tmp_path, outputs=(output,)), late).step is Step.ACCEPT


class SilentBackend:
    """A Slurm that doesn't answer."""

    def find(self, attempt: Attempt) -> None:
        raise SlurmUnavailable("no answer")


def test_attempt_that_a_dead_driver_may_have_submitted_waits_until_slurm_can_be_asked(tmp_path: Path) -> None:
    attempt = attempt_of(tmp_path, dead_process())
    assert examine(wanted(tmp_path), {JobKind.LOCAL: SilentBackend()}).step is Step.WAIT
    assert attempt.job() is None and attempt.end() is None
