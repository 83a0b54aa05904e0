"""Many equal jobs as one Slurm array: one sbatch, one comment; each job keeps its own attempt in the journal.

The tasks of an array share the submitit folder of its first attempt. Each attempt learns its place before sbatch is
called (`array.json`), so that a job whose submitter died in between is found by the array's comment and its index.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .journal import Attempt, JobKind, JobRecord, Record, replace, write_exclusively
from .launch import StageTask
from .slurm import AttemptSlurmExecutor


@dataclass(frozen=True)
class ArrayPlace(Record):
    """Where in which array an attempt's job is."""

    file_name: ClassVar[str] = "array.json"
    uid: str
    """Identity of the array; the comment of its Slurm job."""
    index: int


def array_place(attempt: Attempt) -> ArrayPlace | None:
    """Return the attempt's place; None for one that was submitted by itself."""
    return ArrayPlace.read(attempt.folder)


def submit_array(attempts: Sequence[Attempt], tasks: Sequence[StageTask], uid: str, parameters: dict[str, object]) -> None:
    """Submit all attempts, which ask for the same, as one array and record their jobs' ids."""
    shared = attempts[0].submitit_folder
    shared.mkdir()
    for index, attempt in enumerate(attempts):
        replace(attempt.folder, ArrayPlace(uid, index))
        if index:
            attempt.submitit_folder.symlink_to(shared)
    executor = AttemptSlurmExecutor(shared)
    executor.update_parameters(**parameters)
    for attempt, job_id in zip(attempts, executor.submit_elements(tasks), strict=True):
        write_exclusively(attempt.folder, JobRecord(JobKind.SLURM, job_id))


def leave_array(attempt: Attempt) -> None:
    """Forget a submission that was never taken, such as an array's: the attempt is about to be submitted by itself."""
    (attempt.folder / ArrayPlace.file_name).unlink(missing_ok=True)
    if attempt.submitit_folder.is_symlink():
        attempt.submitit_folder.unlink()
    else:
        shutil.rmtree(attempt.submitit_folder, ignore_errors=True)
