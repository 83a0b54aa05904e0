"""Submitting an attempt, and asking about the job it became: on Slurm and on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from . import controller
from .arrays import array_place
from .failure import end_from_ranks
from .journal import Attempt, End, JobKind, JobRecord, Outcome, RankRecord, write_exclusively
from .launch import StageTask
from .local import DetachedLocalExecutor
from .processes import is_alive, is_here
from .slurm import HELD_AFTER_LAUNCH, SETTLED_SECONDS, AttemptSlurmExecutor, Phase, Slurm, SlurmState, SlurmUnavailable

_SETTLE_SECONDS = 60.0  # Slurm requeues a job of a dead node 5–9 s after it declared it failed
_FORGOTTEN_SECONDS = 45.0  # sacct shows a new job after 0.8–2 s; a file server may be slower
_RELEASES = 5  # of a job that nodes cannot launch, before that is left to a person
_HURRY_SECONDS = 2.0  # between questions about a job that seems to be ending
_ENDING_SECONDS = 120.0  # for which a failed rank makes its job seem to be ending
_SILENCE_SECONDS = 180.0  # of a local controller on another machine, which touches a file every 15 s


class Backend(Protocol):
    """Knows the jobs of one kind."""

    def look(self, attempt: Attempt, job: JobRecord) -> End | None:
        """Return the end of the attempt when its job is over, else None; cheap enough for every poll."""

    def conclude(self, attempt: Attempt, job: JobRecord) -> End | None:
        """Like `look`, but asks now; None also while nobody can tell, then `look` settles it."""

    def find(self, attempt: Attempt) -> JobRecord | None:
        """Return the job of an attempt whose submitter died before recording it."""

    def cancel(self, job: JobRecord) -> None:
        """End the job."""


class LocalBackend:
    """Jobs of this machine's controllers."""

    def look(self, attempt: Attempt, job: JobRecord) -> End | None:
        """See Backend."""
        if self._is_live(attempt, job):
            return None
        # The controller writes the end before it exits, so a dead one without an end was killed.
        lost = "its controller was killed or the machine restarted"
        return attempt.end() or end_from_ranks(attempt, Outcome.LOST, lost)

    def conclude(self, attempt: Attempt, job: JobRecord) -> End | None:
        """See Backend."""
        return self.look(attempt, job)

    def find(self, attempt: Attempt) -> JobRecord | None:
        """See Backend: the controller records itself before it does anything."""
        return attempt.job()

    def cancel(self, job: JobRecord) -> None:
        """See Backend."""
        if job.process is not None and is_here(job.process) and is_alive(job.process):
            os.kill(job.process.pid, signal.SIGTERM)

    @staticmethod
    def _is_live(attempt: Attempt, job: JobRecord) -> bool:
        if job.process is None:
            return False
        if is_here(job.process):
            return is_alive(job.process)
        return _silence(attempt) < _SILENCE_SECONDS


def _silence(attempt: Attempt) -> float:
    """Return how long ago the controller gave a sign of life, in seconds of the file server's clock."""
    probe = attempt.folder / ".clock"
    probe.touch()
    try:
        return probe.stat().st_mtime - (attempt.folder / controller.ALIVE_FILE).stat().st_mtime
    except FileNotFoundError:
        return _SILENCE_SECONDS


class SlurmBackend:
    """Jobs of the Slurm cluster."""

    def __init__(self, slurm: Slurm, requeuer_seconds: float = 0.0, warn: Callable[[str], None] = print) -> None:
        self.slurm = slurm
        self.requeuer_seconds = requeuer_seconds
        self.warn = warn
        self._over_since: dict[str, float] = {}
        self._releases: Counter[str] = Counter()
        self._states: dict[str, SlurmState] = {}

    def refresh(self, jobs: dict[str, Attempt]) -> None:
        """Ask Slurm about all `jobs` (id → attempt) at once when it is time; sooner when one seems to be ending."""
        ending = any(job_id in self._over_since or _failed_just_now(attempt) for job_id, attempt in jobs.items())
        if not jobs or not self.slurm.due(_HURRY_SECONDS if ending else self.slurm.poll_seconds):
            return
        try:
            states = self.slurm.states(jobs)
        except SlurmUnavailable:
            self._states = {}
            return
        self._states = states
        for job_id, attempt in jobs.items():
            state = _its_own(attempt, states.get(job_id))
            if state is not None and state.detail == HELD_AFTER_LAUNCH:
                self._release(job_id)

    def _release(self, job_id: str) -> None:
        """Let a job that no node could start wait for others; give up where that goes on."""
        self._releases[job_id] += 1
        if self._releases[job_id] <= _RELEASES and self.slurm.release(job_id):
            self.warn(f"Slurm held job {job_id} because a node could not launch it, and drained the node; released it.")
        elif self._releases[job_id] == _RELEASES + 1:
            self.warn(
                f"Slurm holds job {job_id} again: its nodes cannot launch it (sinfo -R says why). "
                f"When they can: scontrol release {job_id}"
            )

    def look(self, attempt: Attempt, job: JobRecord) -> End | None:
        """See Backend."""
        state = _its_own(attempt, self._states.get(job.id))
        if state is None or state.phase is Phase.LIVE:
            self._over_since.pop(job.id, None)
            return None
        since = self._over_since.setdefault(job.id, time.monotonic())
        waited = time.monotonic() - since
        return None if waited < self._patience(attempt, state.phase) else _slurm_end(attempt, state)

    def conclude(self, attempt: Attempt, job: JobRecord) -> End | None:
        """See Backend."""
        try:
            state = _its_own(attempt, self.slurm.states([job.id], SETTLED_SECONDS).get(job.id))
        except SlurmUnavailable:
            return None
        if state is None or state.phase is Phase.LIVE or self._patience(attempt, state.phase):
            return None
        return _slurm_end(attempt, state)

    def _patience(self, attempt: Attempt, phase: Phase) -> float:
        return _patience(attempt, phase, self.requeuer_seconds)

    def find(self, attempt: Attempt) -> JobRecord | None:
        """See Backend: by the comment that carries the attempt's uid. Raises SlurmUnavailable."""
        intent = attempt.intent()
        place = array_place(attempt)
        job_id = self.slurm.find_comment(_comment_of(attempt), intent.user, None if place is None else place.index)
        if job_id is None:
            return attempt.job()
        write_exclusively(attempt.folder, JobRecord(JobKind.SLURM, job_id))
        return attempt.job()

    def cancel(self, job: JobRecord) -> None:
        """See Backend."""
        self.slurm.cancel(job.id)


def _its_own(attempt: Attempt, state: SlurmState | None) -> SlurmState | None:
    """Return the state, or that of an unknown job when the id now belongs to another: a crashed controller reuses ids."""
    if state is None or not state.comment or state.comment == _comment_of(attempt):
        return state
    return SlurmState(Phase.UNKNOWN)


def _patience(attempt: Attempt, phase: Phase, requeuer_seconds: float) -> float:
    """Return for how many seconds Slurm must keep saying that the job is over before it is believed."""
    if phase is Phase.COMPLETED and not _all_ranks_ended(attempt):
        return _FORGOTTEN_SECONDS
    if phase is Phase.FAILED:
        seen = any(start.revived for start in attempt.starts())  # another requeuer at work, which may do it again
        return max(requeuer_seconds, _SETTLE_SECONDS if seen else 0.0)
    return {Phase.UNSETTLED: _SETTLE_SECONDS, Phase.UNKNOWN: _FORGOTTEN_SECONDS}.get(phase, 0.0)


def _slurm_end(attempt: Attempt, state: SlurmState) -> End:
    if _all_ranks_ended(attempt) and not _failed_ranks(attempt):
        # A preempted job that finished in its grace period reads TIMEOUT, with complete results.
        return end_from_ranks(attempt, Outcome.SUCCESS, "")
    outcome = {Phase.CANCELLED: Outcome.CANCELLED, Phase.UNKNOWN: Outcome.LOST}.get(state.phase, Outcome.FAILED)
    if state.phase is Phase.COMPLETED and not _failed_ranks(attempt):
        outcome = Outcome.LOST  # its ranks never said so: another job had this id, or their folder was away
    words = f"{state.name} {state.detail}".strip()
    word = state.name.split()[0].rstrip("+") if state.name else ""
    return end_from_ranks(attempt, outcome, f"Slurm says {words}" if words else "Slurm has no record of it", word)


def _all_ranks_ended(attempt: Attempt) -> bool:
    return len(attempt.ranks()) == attempt.intent().ranks


def _failed_ranks(attempt: Attempt) -> list[RankRecord]:
    return [record for record in attempt.ranks().values() if record.exit_code != 0]


def _failed_just_now(attempt: Attempt) -> bool:
    return any(time.time() - record.time < _ENDING_SECONDS for record in _failed_ranks(attempt))


def _comment_of(attempt: Attempt) -> str:
    place = array_place(attempt)
    return comment_of(attempt.intent().uid if place is None else place.uid)


def comment_of(uid: str) -> str:
    """Return the Slurm comment of the attempt with this uid."""
    return f"submitit:{uid}"


@dataclass(frozen=True)
class Submission:
    """Everything that a submission needs besides the attempt's folder."""

    task: StageTask
    parameters: dict[str, object]
    """For submitit's executor of that kind."""


def submit_local(attempt: Attempt, submission: Submission) -> int:
    """Start the attempt on this machine and return the pid of its controller, which records the job."""
    executor = DetachedLocalExecutor(attempt.folder, attempt.submitit_folder)
    executor.update_parameters(**submission.parameters)
    return int(executor.submit(submission.task).job_id)


def submit_slurm(attempt: Attempt, submission: Submission) -> None:
    """Submit the attempt to Slurm and record the job's id."""
    executor = AttemptSlurmExecutor(attempt.submitit_folder)
    executor.update_parameters(**submission.parameters)
    job_id = executor.submit(submission.task).job_id
    write_exclusively(attempt.folder, JobRecord(JobKind.SLURM, job_id))
