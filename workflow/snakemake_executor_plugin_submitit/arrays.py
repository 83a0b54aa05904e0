"""Many equal jobs as one Slurm array: one sbatch, one comment; each job keeps its own attempt in the journal.

The tasks of an array share the submitit folder of its first attempt, the others link to it. It says whose they are
(`array.json`) before sbatch is called, so that a job whose submitter died in between is found by the array's comment and
its index.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .journal import Attempt, JobKind, JobRecord, Record, write_exclusively
from .launch import StageTask
from .parallel import at_once
from .slurm import AttemptSlurmExecutor


@dataclass(frozen=True)
class ArrayMembers(Record):
    """Whose the tasks of an array are; in the submitit folder that they share."""

    file_name: ClassVar[str] = "array.json"
    uid: str
    """Identity of the array; the comment of its Slurm job."""
    members: list[str]
    """Uids of the attempts, in the order of the array's indices."""


@dataclass(frozen=True)
class ArrayPlace:
    """Where in which array an attempt's job is."""

    uid: str
    index: int


def array_place(attempt: Attempt) -> ArrayPlace | None:
    """Return the attempt's place; None for one that was submitted by itself."""
    try:
        written = (attempt.submitit_folder / ArrayMembers.file_name).stat()
    except OSError:
        return None
    found = _places(attempt.submitit_folder.resolve(), written.st_ino, written.st_mtime_ns)
    return found.get(attempt.intent().uid)


@functools.lru_cache(maxsize=64)
def _places(folder: Path, inode: int, written: int) -> dict[str, ArrayPlace]:
    """Return the places by the attempts' uids; read once, for each of a thousand attempts asks."""
    array = ArrayMembers.read(folder)
    return {} if array is None else {member: ArrayPlace(array.uid, index) for index, member in enumerate(array.members)}


def submit_array(attempts: Sequence[Attempt], tasks: Sequence[StageTask], uid: str, parameters: dict[str, object]) -> None:
    """Submit all attempts, which ask for the same, as one array and record their jobs' ids."""
    shared = attempts[0].submitit_folder
    shared.mkdir()
    write_exclusively(shared, ArrayMembers(uid, [attempt.intent().uid for attempt in attempts]))
    at_once(lambda attempt: attempt.submitit_folder.symlink_to(shared), attempts[1:])
    executor = AttemptSlurmExecutor(shared)
    executor.update_parameters(**parameters)
    recorded = zip(attempts, executor.submit_elements(tasks), strict=True)
    at_once(lambda job: write_exclusively(job[0].folder, JobRecord(JobKind.SLURM, job[1])), recorded)


def leave_array(attempt: Attempt) -> None:
    """Forget a submission that was never taken, such as an array's: the attempt is about to be submitted by itself."""
    if attempt.submitit_folder.is_symlink():
        attempt.submitit_folder.unlink()
    else:
        shutil.rmtree(attempt.submitit_folder, ignore_errors=True)
