"""The executor that Snakemake drives: one Snakemake job is one submitit job, claimed, watched and left running."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
import time
from bisect import insort
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.utils import format_cli_arg

from .backend import Backend, LocalBackend, SlurmBackend
from .causes import gather, judge, load_policy
from .failure import describe
from .journal import Acceptance, Action, Attempt, End, JobFolder, JobKind, Judgement, Outcome, write_exclusively
from .launch import furthest
from .local import LocalQueue, this_machine
from .parallel import at_once
from .processes import this_process
from .reattach import Step, Verdict, examine
from .settings import Cluster, GivenUp, OnInterrupt, checked, resolve_cluster
from .slurm import Slurm, SlurmUnavailable
from .submission import Submitter, Tracked
from .weather import may_pass

if TYPE_CHECKING:
    from snakemake.jobs import AbstractJob

_LOCAL_POLL_SECONDS = 0.15
_SLURM_POLL_SECONDS = 1.0
_UNHURRIED_JOBS = 500  # running jobs for which the looks at their ends come half as often
_CLAIM_TRIES = 50  # claims lost in a row to other drivers


class Executor(RemoteExecutor):
    """Runs Snakemake jobs through submitit and survives its own death: see the package's journal."""

    poll_seconds = 0.05  # until __post_init__ knows better: Snakemake starts the watching thread before it

    def __post_init__(self) -> None:
        self.settings = checked(self.workflow.executor_settings)
        self.policy = load_policy(self.settings.policy)
        self.cluster = resolve_cluster(self.settings.cluster)
        self.kind = JobKind.SLURM if self.cluster is Cluster.SLURM else JobKind.LOCAL
        self.slurm_backend = SlurmBackend(
            Slurm(self.settings.queue_poll_seconds), self.settings.requeuer_seconds, self.logger.warning
        )
        self.backends: dict[JobKind, Backend] = {JobKind.LOCAL: LocalBackend(), JobKind.SLURM: self.slurm_backend}
        self.queue = LocalQueue(this_machine(self.settings.local_cores, self.settings.local_mem_mb))
        self.driver, self.since = this_process(), time.time()
        self.submitter = Submitter(self.workflow, self.settings, self.kind, self.driver, self.format_job_exec)
        self.running: dict[int, Tracked] = {}
        self.waiting: list[Tracked] = []  # jobs that wait for this machine's cores, in the order in which they will start
        self._launching = threading.Lock()
        self._storage_warned = False
        poll = _SLURM_POLL_SECONDS if self.cluster is Cluster.SLURM else _LOCAL_POLL_SECONDS
        self.poll_seconds = self.settings.end_poll_seconds or poll
        self._detaches = False

    # -- starting -----------------------------------------------------------------------------------------------------

    def run_jobs(self, jobs: list[AbstractJob]) -> None:
        """Run what is ready now; on Slurm, jobs that ask for the same go as one array."""
        if not self._detaches:  # Snakemake sets its own handlers between this object's creation and its first jobs
            self._detaches = True
            _detach_on_signals()
        for job in jobs:
            self.run_job_pre(job)
        if self.kind is JobKind.LOCAL or self.settings.array_size == 1 or len(jobs) == 1:
            for job in sorted(jobs, key=lambda job: -job.priority):
                self.run_job(job)
            return
        claimed: dict[str, list[Tracked]] = {}

        def collect(found: Tracked) -> None:
            claimed.setdefault(self.submitter.array_key(found), []).append(found)

        wanted = [self.submitter.track(job) for job in jobs]
        for tracked, is_first in zip(wanted, at_once(self._claims_first, wanted), strict=True):
            if is_first:
                collect(tracked)
            else:
                self._begin(tracked, collect)
        size = min(self.settings.array_size, self._array_limit) if claimed else 1
        for members in claimed.values():
            for start in range(0, len(members), size):
                self._submit_together(members[start : start + size])

    def _claims_first(self, tracked: Tracked) -> bool:
        """Claim the first attempt of a job that nobody has tried yet; any other needs a closer look."""
        try:
            return tracked.folder.latest() is None and self.submitter.claim(tracked, 1)
        except OSError:
            return False

    def run_job(self, job: AbstractJob) -> None:
        """Adopt the job's live attempt, accept its finished one, submit a new one, or queue it for cores."""
        tracked = self.submitter.track(job)
        self._warn_of_excess(tracked)
        self._begin(tracked)

    def _begin(self, tracked: Tracked, collect: Callable[[Tracked], None] | None = None) -> None:
        """Get the job to an attempt and report it; a claimed one that `collect` takes is submitted and reported later."""
        collected: list[Tracked] = []
        problem = None
        try:
            problem = self._advance(tracked, self._submit if collect is None else collected.append)
        except OSError as error:
            self._wait_for_storage(error)
        if collect is not None and collected:
            collect(tracked)
        else:
            self._report(tracked, problem)

    def _report(self, tracked: Tracked, problem: str | None) -> None:
        """Tell Snakemake that the job is submitted, or why it never will be."""
        if problem is not None:
            self.report_job_error(SubmittedJobInfo(tracked.job), msg=problem)
            return
        record = tracked.record()
        external = f"{record.kind}:{record.id}" if record else None
        self.report_job_submission(SubmittedJobInfo(tracked.job, external_jobid=external, aux={"tracked": tracked}))

    def _submit_together(self, members: list[Tracked]) -> None:
        """Submit claimed jobs that ask for the same, as an array where there are several."""
        submit = self._submit if len(members) == 1 else None
        problem = None if submit is not None else self._try(members, lambda: self.submitter.submit_array(members))
        for tracked in members:
            self._report(tracked, submit(tracked) if submit is not None else problem)

    @functools.cached_property
    def _array_limit(self) -> int:
        return self.slurm_backend.slurm.array_limit()

    def _advance(self, tracked: Tracked, submit: Callable[[Tracked], str | None] | None = None) -> str | None:
        """Get the job to an attempt, its own or another driver's, if that can be now; return why it never will be.

        `submit` takes a claimed job to its submission.
        """
        with self._launching:
            for _ in range(_CLAIM_TRIES):
                verdict = examine(tracked.wanted(self.driver, self.since), self.backends)
                if verdict.step is not Step.CLAIM:
                    self._leave_queue(tracked)
                    if verdict.step is not Step.WAIT:
                        self._take(tracked, verdict)
                    return None
                if self.settings.given_up == GivenUp.LEAVE and verdict.number > 1:
                    left = _given_up(tracked.folder)
                    if left:
                        return left
                if self.kind is JobKind.LOCAL and not self._may_start(tracked):
                    return None
                if self.submitter.claim(tracked, verdict.number):
                    self._leave_queue(tracked)
                    return (submit or self._submit)(tracked)
        raise WorkflowError(
            f"rule {tracked.job.name}: lost {_CLAIM_TRIES} claims in a row in {tracked.identity.folder}; "
            "see what else writes there, and run again"
        )

    def _submit(self, tracked: Tracked) -> str | None:
        assert tracked.attempt is not None
        devices = self.queue.take(tracked.uid, tracked.request) if self.kind is JobKind.LOCAL else ()
        return self._try([tracked], lambda: self.submitter.submit(tracked, devices))

    def _try(self, members: Sequence[Tracked], submit: Callable[[], None]) -> str | None:
        """Submit; return why that is refused. What Slurm or the storage doesn't answer to is tried again later."""
        try:
            submit()
        except Exception as error:
            for tracked in members:
                self.queue.give_back(tracked.uid)
            if not self._may_be_tried_again(members[0], error):
                for tracked in members:
                    assert tracked.attempt is not None
                    tracked.attempt.finish(End(Outcome.FAILED, f"submission failed: {error}"))
                    tracked.retry.close()
                return f"submission failed: {error}\n"
            for tracked in members:
                tracked.retry.postpone()
        else:
            for tracked in members:
                tracked.retry.close()
        self.running.update({id(tracked): tracked for tracked in members})
        return None

    def _may_be_tried_again(self, tracked: Tracked, error: Exception) -> bool:
        """Say whether the submission was not refused but not answered, and tell the user so once."""
        if isinstance(error, SlurmUnavailable):
            if not tracked.retry.is_open:
                self.logger.warning(f"Rule {tracked.job.name}: Slurm doesn't answer ({error}); trying again until it does.")
            return True
        if isinstance(error, OSError) and may_pass(error):
            self._wait_for_storage(error)
            return True
        return False

    def _submit_again(self, tracked: Tracked) -> str | None:
        """Submit what was not answered, unless it turns out to have been taken; return why it never will be."""
        assert tracked.attempt is not None
        if time.monotonic() < tracked.retry.due:
            return None
        try:
            taken = self.backends[self.kind].find(tracked.attempt) is not None
        except SlurmUnavailable:
            tracked.retry.postpone()
            return None
        if taken:
            tracked.retry.close()
            return None
        return self._submit(tracked)

    def _take(self, tracked: Tracked, verdict: Verdict) -> None:
        assert verdict.attempt is not None
        tracked.attempt = verdict.attempt
        tracked.uid = verdict.attempt.intent().uid
        self.submitter.link_log(tracked)
        if verdict.step is Step.ADOPT:
            record = verdict.attempt.job()
            if record is not None and record.kind is JobKind.LOCAL:
                self.queue.take(tracked.uid, tracked.request)
            self.running[id(tracked)] = tracked
            self.logger.info(f"Adopted {record} (attempt {verdict.attempt.number}) for rule {tracked.job.name}.")

    def _may_start(self, tracked: Tracked) -> bool:
        """Say whether the machine has room, and no job of a higher priority, or an earlier one of the same, waits for it."""
        may = (not self.waiting or self.waiting[0] is tracked) and self.queue.fits(tracked.request)
        if not may and not tracked.queued:
            tracked.queued = True
            insort(self.waiting, tracked, key=lambda waiting: -waiting.job.priority)
        return may

    def _leave_queue(self, tracked: Tracked) -> None:
        if tracked.queued:
            tracked.queued = False
            self.waiting.remove(tracked)

    def _warn_of_excess(self, tracked: Tracked) -> None:
        excess = self.queue.excess(tracked.request) if self.kind is JobKind.LOCAL else ""
        if excess:
            self.logger.warning(f"Rule {tracked.job.name} asks for more than this machine has ({excess}); it will run alone.")

    # -- watching -----------------------------------------------------------------------------------------------------

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that have ended, start those whose turn has come, and yield the ones that go on."""
        if not active_jobs:
            return
        for info in await asyncio.to_thread(self._check_all, active_jobs):
            yield info

    async def sleep(self) -> None:
        """Wait for the next look at the active jobs, longer when a look costs the file server many reads."""
        await asyncio.sleep(self.poll_seconds * (1 + len(self.active_jobs) / _UNHURRIED_JOBS))

    def _check_all(self, active_jobs: list[SubmittedJobInfo]) -> list[SubmittedJobInfo]:
        jobs = {}
        for info in active_jobs:
            tracked: Tracked = info.aux["tracked"]
            record = tracked.record()
            if record is not None and record.kind is JobKind.SLURM and tracked.attempt is not None:
                jobs[record.id] = tracked.attempt
        self.slurm_backend.refresh(jobs)
        return [info for info in active_jobs if not self._check_in_any_weather(info)]

    def _check_in_any_weather(self, info: SubmittedJobInfo) -> bool:
        """Like `_check`; a job whose records cannot be read or written now is looked at again later."""
        try:
            over = self._check(info)
        except OSError as error:
            self._wait_for_storage(error)
            return False
        self._storage_warned = self._storage_warned and not over
        return over

    def _wait_for_storage(self, error: OSError) -> None:
        """Say once that the storage fails, unless the error is one that does not pass."""
        if not may_pass(error):
            raise error
        if not self._storage_warned:
            self.logger.warning(f"The journal cannot be kept ({error}); jobs run on, trying again until it can.")
        self._storage_warned = True

    def _check(self, info: SubmittedJobInfo) -> bool:
        """Move one job on; return whether it is over and reported."""
        tracked: Tracked = info.aux["tracked"]
        if tracked.retry.is_open and tracked.attempt is not None:
            problem = self._submit_again(tracked)
            if problem is not None:
                self.report_job_error(info, msg=problem)
            return problem is not None
        if tracked.attempt is None:
            if tracked.queued and self.waiting[0] is not tracked:
                return False
            problem = self._advance(tracked)
            if problem is not None:
                self.report_job_error(info, msg=problem)
            return problem is not None
        end = self._end_of(tracked)
        if end is None:
            return False
        self._forget(tracked)
        if end.outcome is Outcome.SUCCESS:
            write_exclusively(tracked.attempt.folder, Acceptance(self.driver))
            self.report_job_success(info)
            return True
        judgement = self._judge(tracked, tracked.attempt, end)
        said = describe(tracked.folder, tracked.attempt, end, judgement)
        if judgement.action.starts_again:
            self.logger.warning(f"Rule {tracked.job.name}: {said}Starting it again ({judgement.action}).")
            tracked.attempt = None
            return False
        self.report_job_error(info, msg=said)
        return True

    def _judge(self, tracked: Tracked, attempt: Attempt, end: End) -> Judgement:
        """Say why the attempt ended and what to do, and have that in the journal before it is done."""
        judgement = judge(gather(attempt, end), self.policy)
        if judgement.action.starts_again and not tracked.guard.allows(
            attempt.number, furthest(attempt), self.settings.idle_attempts
        ):
            advice = f"{tracked.guard.idle} attempts in a row brought nothing new; mend what the attempts below show"
            judgement = replace(judgement, action=Action.ASK, advice=advice)
        if judgement.action is Action.ELSEWHERE and judgement.host and self.settings.bad_node_hours:
            nodes = self.submitter.bad_nodes(tracked)
            nodes.remember(judgement.host, judgement.cause, str(attempt.job()), self.settings.bad_node_hours)
        write_exclusively(attempt.folder, judgement)
        return attempt.judgement() or judgement

    def _end_of(self, tracked: Tracked) -> End | None:
        assert tracked.attempt is not None
        end = tracked.attempt.end()
        if end is not None:
            return end
        record = tracked.record()
        if record is None:
            return None if tracked.controller_runs() else self._close_unregistered(tracked)
        end = self.backends[record.kind].look(tracked.attempt, record)
        if end is not None:
            tracked.attempt.finish(end)
        return tracked.attempt.end()

    def _close_unregistered(self, tracked: Tracked) -> End | None:
        """Record the end of a controller that died before it could say anything, such as in a setup line."""
        assert tracked.attempt is not None
        log = tracked.attempt.folder / "controller.log"
        tracked.attempt.finish(End(Outcome.FAILED, f"its controller did not start; see {log}"))
        return tracked.attempt.end()

    def _forget(self, tracked: Tracked) -> None:
        self.queue.give_back(tracked.uid)
        self.running.pop(id(tracked), None)

    # -- ending -------------------------------------------------------------------------------------------------------

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Leave the running jobs to the next run, or cancel them when the settings say so."""
        for tracked in list(self.running.values()):
            record = tracked.record()
            if self._end_of(tracked) is not None:
                continue
            if record is None:  # its controller has just been started, and goes on to register
                self.logger.info(f"Left the starting job of rule {tracked.job.name}; run snakemake again to adopt it.")
            elif self.settings.on_interrupt == OnInterrupt.CANCEL:
                self.backends[record.kind].cancel(record)
                self.logger.info(f"Cancelled {record} of rule {tracked.job.name}.")
            else:
                self.logger.info(f"Left {record} of rule {tracked.job.name} running; run snakemake again to adopt it.")

    def get_job_args(self, job: AbstractJob) -> str:
        """Return the arguments of a nested Snakemake, which must not wait for this driver's temporary folder."""
        files = [str(file) for file in job.get_wait_for_files()]
        arguments = RealExecutor.get_job_args(self, job)
        if len(files) <= 20:
            return f"{arguments} {format_cli_arg('--wait-for-files', files)}"
        listing = self.submitter.wait_file(job)
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(files) + "\n", encoding="utf-8")
        return f"{arguments} {format_cli_arg('--wait-for-files-file', str(listing))}"


def _given_up(folder: JobFolder) -> str:
    """Say why the newest attempt was the last that a driver wanted to make; empty when it wasn't."""
    latest = folder.latest()
    judgement = latest.judgement() if latest is not None else None
    if latest is None or judgement is None or judgement.action.starts_again:
        return ""
    return (
        f"given up after attempt {latest.number} ({judgement.cause}), and left alone by --submitit-given-up=leave; "
        f"when it is mended, run without that flag\nlog of that attempt: {latest.rank_log(0)}\n"
    )


def _detach_on_signals() -> None:
    """Have SIGTERM and a lost terminal do what Ctrl-C does, unless they are ignored (nohup); only the main thread may say so.

    On SIGTERM Snakemake would wait for all that it has handed over, which here includes what only waits for its turn.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
