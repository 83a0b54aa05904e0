"""Slurm: submitting through submitit, and what squeue, sacct and scontrol say about jobs."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import submitit

from .parallel import at_once
from .rank import task_file

_COMMAND_SECONDS = 60
_SUBMITIT_MINUTES = 5  # what submitit assumes of a job without a time limit; its countdown is switched off here
_DEFAULT_ARRAY_SIZE = 1001  # Slurm's own
SETTLED_SECONDS = 2.0  # in which a listing of the queue serves for many jobs that are looked at one after the other
_SILENT_SECONDS = 5.0  # after which the one job of many that asks next finds out whether Slurm answers again
_LONGEST_BACKOFF_SECONDS = 600.0
HELD_AFTER_LAUNCH = "launch failed requeued held"  # Slurm's reason: a node could not start the job, and was drained
_UNKNOWN_JOB = re.compile(r"Invalid job id", re.IGNORECASE)

_LIVE_STATES = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SUSPENDED",
    "STAGE_OUT",
    "SIGNALING",
    "STOPPED",
    "SPECIAL_EXIT",
}
# States that Slurm may still turn into PENDING, some seconds later, by itself.
_UNSETTLED_STATES = {"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED"}


class Phase(StrEnum):
    """Where a job is in its life."""

    LIVE = "live"
    UNSETTLED = "unsettled"
    """Ended, but Slurm may requeue it by itself."""
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Slurm has never heard of it, or has forgotten it."""


@dataclass(frozen=True)
class SlurmState:
    """What Slurm says about one job."""

    phase: Phase
    name: str = ""
    """Slurm's own word, such as NODE_FAIL."""
    detail: str = ""
    comment: str = ""


class SlurmUnavailable(RuntimeError):
    """Slurm doesn't answer now."""


def phase_of(state: str) -> Phase:
    """Return the phase for Slurm's word, which may carry a suffix such as `CANCELLED by 0` or `COMPLETING+`."""
    word = state.split()[0].rstrip("+") if state.split() else ""
    if word in _LIVE_STATES:
        return Phase.LIVE
    if word in _UNSETTLED_STATES:
        return Phase.UNSETTLED
    if not word:
        return Phase.UNKNOWN
    return {"COMPLETED": Phase.COMPLETED, "CANCELLED": Phase.CANCELLED}.get(word, Phase.FAILED)


def parse_squeue(text: str) -> dict[str, SlurmState]:
    """Parse lines of `id|state|reason|comment`, by job id."""
    states = {}
    for line in text.splitlines():
        job_id, separator, rest = line.partition("|")
        if separator:
            state, _, rest = rest.partition("|")
            reason, _, comment = rest.partition("|")
            detail = "" if reason == "None" else reason
            states[job_id.strip()] = SlurmState(phase_of(state), state, detail, comment.strip())
    return states


def parse_sacct(text: str) -> dict[str, SlurmState]:
    """Parse lines of `id|state|exit code` from `sacct -X -n -P`, by job id."""
    states = {}
    for line in text.splitlines():
        job_id, state, exit_code = [*line.split("|"), "", ""][:3]
        if job_id:
            states[job_id] = SlurmState(phase_of(state), state, f"exit code {exit_code}" if exit_code else "")
    return states


def parse_scontrol(text: str) -> SlurmState:
    """Parse one job of `scontrol -o show job`."""
    values = dict(word.split("=", 1) for word in text.split() if "=" in word)
    state = values.get("JobState", "")
    reason = values.get("Reason", "")
    return SlurmState(phase_of(state), state, "" if reason == "None" else reason, values.get("Comment", ""))


class Slurm:
    """Asks Slurm about jobs, all in one question, and less often while it doesn't answer."""

    def __init__(self, poll_seconds: float) -> None:
        self.poll_seconds = poll_seconds
        self._failures = 0
        self._asked = float("-inf")
        self._silent_until = float("-inf")
        self._listings: dict[str, tuple[float, dict[str, SlurmState]]] = {}

    def due(self, interval: float) -> bool:
        """Say whether `interval` seconds, or more while Slurm doesn't answer, have passed since the last question."""
        backoff = self.poll_seconds * 2**self._failures if self._failures else 0.0
        return time.monotonic() - self._asked >= max(interval, min(_LONGEST_BACKOFF_SECONDS, backoff))

    def states(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, SlurmState]:
        """Return the state of every job; raise SlurmUnavailable when Slurm doesn't answer.

        A listing of the queue that is younger than `max_age` seconds does.
        """
        wanted = list(job_ids)
        try:
            queue = self._queue(getpass.getuser(), max_age)
        except SlurmUnavailable:
            self._failures += 1
            raise
        finally:
            self._asked = time.monotonic()
        self._failures = 0
        found = {job_id: queue[job_id] for job_id in wanted if job_id in queue}
        missing = [job_id for job_id in wanted if job_id not in found]
        if missing:
            found.update(self._history(missing))
        return found

    def find_comment(self, comment: str, user: str, index: int | None = None) -> str | None:
        """Return the id of the user's job with this comment, finished ones included as long as Slurm remembers them.

        `index` picks an element of an array, all of which carry the same comment.
        """
        end = "" if index is None else f"_{index}"
        jobs = self._queue(user, SETTLED_SECONDS)
        return next((job_id for job_id, state in jobs.items() if state.comment == comment and job_id.endswith(end)), None)

    def array_limit(self) -> int:
        """Return how many elements an array may have; Slurm's default where it doesn't say."""
        try:
            found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]).stdout, re.MULTILINE)
        except SlurmUnavailable:
            found = None
        return int(found[1]) if found else _DEFAULT_ARRAY_SIZE

    def release(self, job_id: str) -> bool:
        """Let a held job wait for nodes again; whether Slurm took it."""
        return _ask(["scontrol", "release", job_id]).returncode == 0

    def cancel(self, job_id: str) -> None:
        """Cancel a job; one that has ended stays as it is."""
        _ask(["scancel", "--quiet", job_id])

    def _queue(self, user: str, max_age: float) -> dict[str, SlurmState]:
        """Return the user's jobs by id, from a listing that is not older than `max_age` seconds."""
        listed, queue = self._listings.get(user, (float("-inf"), {}))
        if time.monotonic() - listed > max_age:
            if max_age and time.monotonic() < self._silent_until:
                raise SlurmUnavailable("it did not answer a moment ago")
            listed = time.monotonic()
            answer = _ask(["squeue", "-h", "--array", "--states=all", "-u", user, "-o", "%i|%T|%r|%k"])
            if answer.returncode != 0:
                self._silent_until = time.monotonic() + _SILENT_SECONDS
                raise SlurmUnavailable(answer.stderr.strip())
            queue = parse_squeue(answer.stdout)
            self._listings[user] = (listed, queue)
        return queue

    def _history(self, job_ids: list[str]) -> dict[str, SlurmState]:
        """Ask about jobs that squeue doesn't list: sacct where there is accounting, else scontrol."""
        accounting = _ask(["sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode", "-j", ",".join(job_ids)])
        states = parse_sacct(accounting.stdout) if accounting.returncode == 0 else {}
        for job_id in job_ids:
            if job_id not in states:
                answer = _ask(["scontrol", "-o", "show", "job", job_id])
                if answer.returncode == 0:
                    states[job_id] = parse_scontrol(answer.stdout)
                elif _UNKNOWN_JOB.search(answer.stderr):
                    states[job_id] = SlurmState(Phase.UNKNOWN)
        return {job_id: state for job_id, state in states.items() if job_id in job_ids}


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailable(f"{shlex.join(command)} took more than {_COMMAND_SECONDS} s") from error


class AttemptSlurmExecutor(submitit.SlurmExecutor):
    """submitit's Slurm executor, with our rank's entry point, and any number of requeues."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, max_num_timeout=10**6)

    @classmethod
    def name(cls) -> str:
        """Return the name by which submitit's environment on the ranks knows this executor."""
        return "slurm"

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -m {__package__}.rank {shlex.quote(str(self.folder))}"

    def submit_elements(self, tasks: Sequence[Callable[[], int]]) -> list[str]:
        """Submit `tasks` as one array whose element I is task I; return the jobs' ids.

        A rank finds its task by the element's index, so nothing is left to do after sbatch.
        """
        minutes = int(self.parameters.get("time") or _SUBMITIT_MINUTES)

        def write(numbered: tuple[int, Callable[[], int]]) -> None:
            submission = submitit.core.utils.DelayedSubmission(numbered[1])
            submission.set_timeout(minutes, self.max_num_timeout)
            submission.dump(self.folder / task_file(numbered[0]))

        at_once(write, enumerate(tasks))
        self.parameters.update(map_count=len(tasks), array_parallelism=len(tasks))
        with _outside_of_jobs():
            first = self._submit_command(self._submitit_command_str)
        return [f"{first.job_id}_{index}" for index in range(len(tasks))]

    def _internal_process_submissions(
        self, delayed_submissions: list[submitit.core.utils.DelayedSubmission]
    ) -> list[submitit.core.core.Job[object]]:
        with _outside_of_jobs():
            return super()._internal_process_submissions(delayed_submissions)


def outside_of_jobs() -> dict[str, str]:
    """Return the environment without the variables of a job that this process itself runs in: sbatch takes them as options."""
    in_job = "SLURM_JOB_ID" in os.environ
    return {k: v for k, v in os.environ.items() if not in_job or not k.startswith("SLURM_") or k == "SLURM_CONF"}


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide those variables from submitit, which passes this process's own environment on."""
    hidden = {name: os.environ.pop(name) for name in os.environ.keys() - outside_of_jobs().keys()}
    try:
        yield
    finally:
        os.environ.update(hidden)
