"""From a Snakemake job to a claimed and submitted attempt."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_interface_common.exceptions import WorkflowError

from .backend import Submission, comment_of, submit_local, submit_slurm
from .journal import Attempt, Intent, JobFolder, JobKind, JobRecord
from .launch import StageTask
from .launcher import Identity, Launcher, choose_launcher, direct_command, identify
from .processes import ProcessName, is_alive, name_of
from .reattach import Wanted
from .resources import Request, read_request, setup_lines, slurm_parameters
from .settings import ExecutorSettings, LauncherChoice

if TYPE_CHECKING:
    from snakemake.jobs import AbstractJob
    from snakemake.workflow import Workflow

_MARGIN_SECONDS = 10.0  # of the signal's delay, kept for recording and requeueing


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
    _record: tuple[Attempt, JobRecord] | None = field(default=None, repr=False)

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
        outputs = [Path(str(file)) for file in self.job.output]
        inputs = [] if self.identity.own_journal else [str(file) for file in self.job.input]
        changed = max(map(_changed, inputs), default=0.0)
        return Wanted(
            self.job.name, self.folder, self.identity.spec, driver, since, changed, all(os.path.lexists(path) for path in outputs)
        )


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
            command=_shown_command(tracked),
            ranks=tracked.request.ranks,
            driver=self.driver,
            user=getpass.getuser(),
            log=str(Path(str(tracked.job.log[0])).absolute()) if tracked.job.log and not tracked.job.is_group() else "",
        )
        tracked.attempt = tracked.folder.claim(number, intent)
        tracked.uid = uid
        return tracked.attempt is not None

    def submit(self, tracked: Tracked, devices: tuple[str, ...]) -> None:
        """Submit the claimed attempt; `devices` are the GPUs that the local queue gave it."""
        attempt, job, request = tracked.attempt, tracked.job, tracked.request
        assert attempt is not None
        if tracked.launcher is Launcher.DIRECT:
            # Removes old outputs and makes folders; a nested Snakemake does that itself.
            self.workflow.async_run(job.prepare())
            self.link_log(tracked)
        task = self._task(tracked, attempt)
        delay = self.settings.signal_delay_seconds
        if self.kind is JobKind.SLURM:
            submit_slurm(
                attempt, Submission(task, slurm_parameters(job.name, request, job.resources, comment_of(tracked.uid), delay))
            )
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

    def link_log(self, tracked: Tracked) -> None:
        """Make the rule's first log file a link to rank 0's log; a nested Snakemake writes that file itself."""
        if tracked.attempt is None or tracked.launcher is Launcher.NESTED or not tracked.job.log:
            return
        log = Path(str(tracked.job.log[0])).absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
        draft = log.with_name(f".{log.name}.{uuid.uuid4().hex[:8]}")
        draft.symlink_to(tracked.attempt.rank_log(0))
        os.replace(draft, log)

    def wait_file(self, job: AbstractJob) -> Path:
        """Return where to list the files that a nested Snakemake has to wait for."""
        return identify(job, Launcher.NESTED).folder.absolute() / "wait-for-files.txt"

    def _task(self, tracked: Tracked, attempt: Attempt) -> StageTask:
        job = tracked.job
        if tracked.launcher is Launcher.DIRECT:
            shell, command = direct_command(job)
        else:
            shell, command = "/bin/sh", self.nested_command(job)
        delay = self.settings.signal_delay_seconds
        return StageTask(
            command=command,
            shell=shell,
            workdir=str(Path.cwd()),
            attempt_folder=str(attempt.folder),
            earlier_starts=sum(item.starts() for item in tracked.folder.attempts() if item.number < attempt.number),
            cpus_per_task=tracked.request.cpus_per_task,
            grace_seconds=max(delay / 2, delay - _MARGIN_SECONDS),
            environment=_environment(job),
        )


def _environment(job: AbstractJob) -> dict[str, str]:
    # Snakemake's default for tmpdir is this machine's, which says nothing about the job's.
    tmpdir = job.resources.get("tmpdir")
    if isinstance(tmpdir, str) and tmpdir != tempfile.gettempdir():
        return dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), tmpdir)
    return {}


def _shown_command(tracked: Tracked) -> str:
    if tracked.launcher is Launcher.DIRECT:
        return str(tracked.job.shellcmd)
    return f"{sys.executable} -m snakemake, for rule {tracked.job.name}"


def _changed(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except FileNotFoundError:
        return 0.0  # a temporary input that is gone; Snakemake decides what that means
