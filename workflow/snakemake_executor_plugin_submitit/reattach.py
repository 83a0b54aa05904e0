"""What to do about a job that may have been run before, by this driver or another: adopt, accept, wait, or claim."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError

from .backend import Backend
from .journal import Attempt, End, Intent, JobFolder, JobKind, JobRecord, Outcome, write_exclusively
from .processes import ProcessName, is_alive, is_here
from .slurm import SlurmUnavailable

_FOREIGN_DRIVER_SECONDS = 300.0  # in which a driver on another machine submits, or is taken for dead


class Step(StrEnum):
    """What to do about a job."""

    CLAIM = "claim"
    """Nobody runs it: claim the next attempt."""
    ADOPT = "adopt"
    """Its job lives, or has just ended for another driver of this time: watch it."""
    ACCEPT = "accept"
    """It ended well while nobody watched: take the result."""
    WAIT = "wait"
    """Another driver is about to submit it, or Slurm doesn't say whether a dead one did: look again."""


@dataclass(frozen=True)
class Verdict:
    """What to do, and about which attempt."""

    step: Step
    attempt: Attempt | None = None
    number: int = 0
    """The attempt to claim."""


@dataclass(frozen=True)
class Wanted:
    """The job that a driver wants to have done."""

    rule: str
    folder: JobFolder
    spec: str
    driver: ProcessName
    since: float
    """When the driver started."""
    inputs_changed: float
    """Newest change of an input file; 0 where the journal's path carries the identity of the result."""
    outputs: tuple[Path, ...]
    """What the job makes. Looked at when a success has been found: it may come about while Slurm is asked."""


def examine(wanted: Wanted, backends: dict[JobKind, Backend]) -> Verdict:
    """Return what to do about a job. Closes attempts found dead; raises WorkflowError when it must not go on."""
    latest = wanted.folder.latest()
    if latest is None:
        return Verdict(Step.CLAIM, number=1)
    claim = Verdict(Step.CLAIM, number=latest.number + 1)
    end = latest.end()
    job = latest.job()
    if end is None and job is None:
        if not _submitter_is_gone(latest, wanted.driver, backends):
            return Verdict(Step.WAIT, latest)
        job = _take_over(latest)
    if end is None and job is not None:
        end = (
            End(Outcome.LOST, "its driver died before the submission")
            if job.kind is JobKind.NONE
            else backends[job.kind].conclude(latest, job)
        )
        if end is None:
            _refuse_changed_command(wanted, latest, job)
            return Verdict(Step.ADOPT, latest)
        latest.finish(end)
        end = latest.end()
    if end is None or end.outcome is not Outcome.SUCCESS or not _is_acceptable(wanted, latest, end):
        return claim
    return Verdict(Step.ACCEPT, latest)


def _submitter_is_gone(attempt: Attempt, driver: ProcessName, backends: dict[JobKind, Backend]) -> bool:
    """Say whether nobody will submit this attempt any more, after recording a job that the dead submitter left."""
    intent = attempt.intent()
    if is_here(intent.driver):
        if intent.driver != driver and is_alive(intent.driver):
            return False
    elif time.time() - intent.time < _FOREIGN_DRIVER_SECONDS:
        return False
    try:
        backends[intent.kind].find(attempt)
    except SlurmUnavailable:
        return False  # its driver has died, but perhaps after sbatch: Slurm must say so first
    return True


def _take_over(attempt: Attempt) -> JobRecord | None:
    """Make sure that an attempt without a job gets none any more; return the job that was faster, if one was."""
    write_exclusively(attempt.folder, JobRecord(JobKind.NONE, ""))
    return attempt.job()


def _refuse_changed_command(wanted: Wanted, attempt: Attempt, job: JobRecord) -> None:
    intent: Intent = attempt.intent()
    if intent.spec == wanted.spec:
        return
    cancel = f"scancel {job.id}" if job.kind is JobKind.SLURM else f"kill {job.id}"
    raise WorkflowError(
        f"rule {wanted.rule}: {job} (attempt {attempt.number}, {attempt.folder}) still runs a different command.\n"
        f"Running: {intent.command.strip()}\n"
        f"Either restore what changed and run again to adopt the job, or let it finish, or end it with `{cancel}` "
        "and run again to start the new command."
    )


def _is_acceptable(wanted: Wanted, attempt: Attempt, end: End) -> bool:
    """Say whether a success answers what the driver wants now, rather than what it wants to have done again."""
    if attempt.intent().spec != wanted.spec:
        return False
    if end.time < wanted.since and not all(map(os.path.lexists, wanted.outputs)):
        return False  # somebody deleted them since; those of a success that is news may only be on their way here
    if attempt.acceptance() is None:
        return wanted.inputs_changed <= attempt.intent().time
    return end.time >= wanted.since  # another driver took it while this one was running
