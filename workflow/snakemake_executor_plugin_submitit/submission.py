"""From a Snakemake job to a claimed and submitted attempt."""

from __future__ import annotations

import functools
import getpass
import os
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_interface_common.exceptions import WorkflowError
from submitit.core.utils import FailedJobError

from .arrays import leave_array, submit_array
from .backend import Submission, comment_of, submit_local, submit_slurm
from .journal import Action, Attempt, Intent, JobFolder, JobKind, JobRecord
from .launch import StageTask
from .launcher import Identity, Launcher, choose_launcher, direct_command, identify
from .nodes import BadNodes
from .processes import ProcessName, is_alive, name_of
from .reattach import Wanted
from .resources import Request, hang_seconds, read_request, setup_lines, slurm_parameters
from .settings import ExecutorSettings, LauncherChoice
from .slurm import SlurmUnavailable
from .trimming import trim_older
from .watchdog import HangRule

if TYPE_CHECKING:
    from snakemake.jobs import AbstractJob
    from snakemake.workflow import Workflow

_SILENT = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection refused|Connection timed out|temporarily unable|"
    r"Transport endpoint|Zero Bytes were transmitted|Communication connection failure",
    re.IGNORECASE,
)  # sbatch's words for a controller that doesn't answer; the job may have been taken all the same
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 5.0, 300.0
_MARGIN_SECONDS = 10.0  # of the signal's delay, kept for recording and requeueing


@dataclass
class Guard:
    """Counts a job's attempts in a row that brought nothing new while this driver watched."""

    furthest: int | None = None
    idle: int = 0
    counted: int = 0
    """The newest attempt that has been noted."""

    def allows(self, attempt: int, furthest: int | None, idle_attempts: int) -> bool:
        """Note that an attempt has ended, the progress marks having come so far; say whether another is worth it."""
        if attempt == self.counted:
            return self.idle < idle_attempts
        self.counted = attempt
        advanced = furthest is not None and (self.furthest is None or furthest > self.furthest)
        self.furthest = furthest if advanced else self.furthest
        self.idle = 0 if advanced else self.idle + 1
        return self.idle < idle_attempts


@dataclass
class Retry:
    """When to try a submission again that Slurm didn't answer; twice as long after every failure."""

    due: float = 0.0
    """Monotonic clock; 0: no submission is open."""
    wait_seconds: float = _FIRST_RETRY_SECONDS

    @property
    def is_open(self) -> bool:
        """Whether nobody knows if the submission was taken."""
        return self.due > 0

    def postpone(self) -> None:
        """Try later."""
        self.due = time.monotonic() + self.wait_seconds
        self.wait_seconds = min(_LAST_RETRY_SECONDS, 2 * self.wait_seconds)

    def close(self) -> None:
        """It was taken, or is refused."""
        self.due, self.wait_seconds = 0.0, _FIRST_RETRY_SECONDS


@dataclass(eq=False)
class Tracked:
    """One Snakemake job that this driver wants done."""

    job: AbstractJob
    launcher: Launcher
    identity: Identity
    request: Request
    attempt: Attempt | None = None
    """The attempt that is hoped to do it; None while queued."""
    uid: str = ""
    """Of that attempt."""
    queued: bool = False
    """It waits for this machine's cores."""
    controller: ProcessName | None = None
    """The local controller that this driver started, if it lived long enough to be seen."""
    guard: Guard = field(default_factory=Guard)
    retry: Retry = field(default_factory=Retry)
    _record: tuple[Attempt, JobRecord] | None = field(default=None, repr=False)

    @functools.cached_property
    def command(self) -> str:
        """The shell command that the rank runs, or what stands for a nested Snakemake; formatting it takes time."""
        return (
            str(self.job.shellcmd)
            if self.launcher is Launcher.DIRECT
            else f"{sys.executable} -m snakemake, for rule {self.job.name}"
        )

    @property
    def folder(self) -> JobFolder:
        """The job's folder in the journal."""
        return JobFolder(self.identity.folder)

    def record(self) -> JobRecord | None:
        """Return which job the attempt became; read once."""
        if self.attempt is None:
            return None
        if self._record is None or self._record[0] != self.attempt:
            record = self.attempt.job()
            if record is None:
                return None
            self._record = (self.attempt, record)
        return self._record[1]

    def controller_runs(self) -> bool:
        """Say whether the controller that this driver started still lives."""
        return self.controller is not None and is_alive(self.controller)

    def wanted(self, driver: ProcessName, since: float) -> Wanted:
        """Return what `reattach.examine` needs to know."""
        inputs = [] if self.identity.own_journal else [str(file) for file in self.job.input]
        changed = max(map(_changed, inputs), default=0.0)
        outputs = tuple(Path(str(file)) for file in self.job.output)
        return Wanted(self.job.name, self.folder, self.identity.spec, driver, since, changed, outputs)


class Submitter:
    """Claims and submits attempts for one driver."""

    def __init__(
        self,
        workflow: Workflow,
        settings: ExecutorSettings,
        kind: JobKind,
        driver: ProcessName,
        nested_command: Callable[[AbstractJob], str],
    ) -> None:
        self.workflow = workflow
        self.settings = settings
        self.kind = kind
        self.driver = driver
        self.nested_command = nested_command

    def track(self, job: AbstractJob) -> Tracked:
        """Return `job` with everything that is known before it is submitted."""
        launcher = choose_launcher(self.workflow, job, LauncherChoice(self.settings.launcher))
        request = read_request(job.name, job.resources, job.threads)
        if launcher is Launcher.NESTED and request.ranks > 1:
            raise WorkflowError(
                f"rule {job.name}: {request.ranks} tasks need a plain shell rule without shadow, "
                "benchmark, group or storage; make it one, or ask for one task"
            )
        if self.kind is JobKind.LOCAL and request.nodes > 1:
            raise WorkflowError(
                f"rule {job.name}: nodes={request.nodes}, but jobs run on this machine; "
                f"use nodes=1 tasks_per_node={request.ranks}, or --submitit-cluster=slurm"
            )
        return Tracked(job, launcher, identify(job, launcher), request)

    def claim(self, tracked: Tracked, number: int) -> bool:
        """Claim attempt `number`; False when another driver was faster."""
        uid = uuid.uuid4().hex
        intent = Intent(
            key=tracked.identity.key,
            uid=uid,
            spec=tracked.identity.spec,
            kind=self.kind,
            rule=tracked.job.name,
            command=tracked.command,
            ranks=tracked.request.ranks,
            driver=self.driver,
            user=getpass.getuser(),
            log=str(Path(str(tracked.job.log[0])).absolute()) if tracked.job.log and not tracked.job.is_group() else "",
        )
        tracked.attempt = tracked.folder.claim(number, intent)
        tracked.uid = uid
        if tracked.attempt is not None:
            trim_older(tracked.folder, number)
        return tracked.attempt is not None

    def submit(self, tracked: Tracked, devices: tuple[str, ...]) -> None:
        """Submit the claimed attempt; `devices` are the GPUs that the local queue gave it."""
        attempt, job, request = tracked.attempt, tracked.job, tracked.request
        assert attempt is not None
        leave_array(attempt)  # or what a submission has left that failed halfway
        self._prepare(tracked)
        task = self._task(tracked, attempt)
        delay = self.settings.signal_delay_seconds
        if self.kind is JobKind.SLURM:
            self._submit_slurm(tracked, task, self._excluded(tracked))
            return
        pid = submit_local(
            attempt,
            Submission(
                task,
                {
                    "tasks_per_node": request.tasks_per_node,
                    "timeout_min": request.runtime_minutes,
                    "signal_delay_s": delay,
                    "devices": devices,
                    "setup": setup_lines(job.resources),
                },
            ),
        )
        tracked.controller = name_of(pid)

    def array_key(self, tracked: Tracked) -> str:
        """Return what jobs must have in common to be elements of one array."""
        return repr(sorted(self._parameters(tracked, "", self._excluded(tracked)).items(), key=str))

    def submit_array(self, members: Sequence[Tracked]) -> None:
        """Submit claimed attempts with the same `array_key` as one Slurm array."""
        uid, attempts, tasks = uuid.uuid4().hex, [], []
        for tracked in members:
            assert tracked.attempt is not None
            self._prepare(tracked)
            attempts.append(tracked.attempt)
            tasks.append(self._task(tracked, tracked.attempt))
        parameters = self._parameters(members[0], uid, self._excluded(members[0]))
        try:
            submit_array(attempts, tasks, uid, parameters)
        except FailedJobError as error:
            raise _told(error) from error

    def _prepare(self, tracked: Tracked) -> None:
        if tracked.launcher is Launcher.DIRECT:
            # Removes old outputs and makes folders; a nested Snakemake does that itself.
            self.workflow.async_run(tracked.job.prepare())
            self.link_log(tracked)

    def _excluded(self, tracked: Tracked) -> list[str]:
        return [record.node for record in self.bad_nodes(tracked).all()]

    def _parameters(self, tracked: Tracked, uid: str, bad_nodes: Sequence[str]) -> dict[str, object]:
        job, delay = tracked.job, self.settings.signal_delay_seconds
        return slurm_parameters(job.name, tracked.request, job.resources, comment_of(uid), delay, bad_nodes)

    def _submit_slurm(self, tracked: Tracked, task: StageTask, bad_nodes: Sequence[str]) -> None:
        assert tracked.attempt is not None
        job = tracked.job
        try:
            submit_slurm(tracked.attempt, Submission(task, self._parameters(tracked, tracked.uid, bad_nodes)))
        except FailedJobError as error:
            if not bad_nodes or isinstance(_told(error), SlurmUnavailable):
                raise _told(error) from error
            # Too few nodes are left: a bad one may do, no node cannot.
            print(f"rule {job.name}: not submitted without {', '.join(bad_nodes)} ({error}); using them", file=sys.stderr)
            self._submit_slurm(tracked, task, ())

    def link_log(self, tracked: Tracked) -> None:
        """Make the rule's first log file a link to rank 0's log; a nested Snakemake writes that file itself."""
        if tracked.attempt is None or tracked.launcher is Launcher.NESTED or not tracked.job.log:
            return
        log = Path(str(tracked.job.log[0])).absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
        draft = log.with_name(f".{log.name}.{uuid.uuid4().hex[:8]}")
        draft.symlink_to(tracked.attempt.rank_log(0))
        os.replace(draft, log)

    def bad_nodes(self, tracked: Tracked) -> BadNodes:
        """Return the memory of nodes that the job must not use."""
        return BadNodes(Path.cwd() / str(tracked.job.resources.get("bad_nodes") or self.settings.bad_nodes))

    def wait_file(self, job: AbstractJob) -> Path:
        """Return where to list the files that a nested Snakemake has to wait for."""
        return identify(job, Launcher.NESTED).folder.absolute() / "wait-for-files.txt"

    def _task(self, tracked: Tracked, attempt: Attempt) -> StageTask:
        job = tracked.job
        if tracked.launcher is Launcher.DIRECT:
            shell, command = direct_command(job, tracked.command)
        else:
            shell, command = "/bin/sh", self.nested_command(job)
        delay = self.settings.signal_delay_seconds
        return StageTask(
            command=command,
            shell=shell,
            workdir=str(Path.cwd()),
            attempt_folder=str(attempt.folder),
            earlier_starts=sum(len(item.starts()) for item in tracked.folder.attempts() if item.number < attempt.number),
            cpus_per_task=tracked.request.cpus_per_task,
            grace_seconds=max(delay / 2, delay - _MARGIN_SECONDS),
            environment=_environment(job),
            hang=HangRule(
                hang_seconds(job.name, job.resources, self.settings.hang_seconds),
                self.settings.hang_multiple,
                marks=job.resources.get("hang_seconds") is not None,
            ),
            idle_starts=self.settings.idle_starts,
            roll_back=_rolls_back(tracked.folder, attempt),
        )


def _told(error: FailedJobError) -> Exception:
    """Return what sbatch's failure means: a controller that doesn't answer is another matter than a refusal."""
    return SlurmUnavailable(str(error).strip().splitlines()[-1]) if _SILENT.search(str(error)) else error


def _rolls_back(folder: JobFolder, attempt: Attempt) -> bool:
    """Whether the judgement of the attempt before, by whichever driver, was to go back behind the newest state."""
    before = [item for item in folder.attempts() if item.number < attempt.number]
    judgement = before[-1].judgement() if before else None
    return judgement is not None and judgement.action is Action.ROLL_BACK


def _environment(job: AbstractJob) -> dict[str, str]:
    # Snakemake's default for tmpdir is this machine's, which says nothing about the job's.
    tmpdir = job.resources.get("tmpdir")
    if isinstance(tmpdir, str) and tmpdir != tempfile.gettempdir():
        return dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), tmpdir)
    return {}


def _changed(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except FileNotFoundError:
        return 0.0  # a temporary input that is gone; Snakemake decides what that means
