"""What runs on every rank of a job: the stage's command, its environment, its log, and the soft stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

from .journal import Attempt, End, JobFolder, JobKind, JobRecord, Outcome, RankRecord, StartRecord, replace, write_exclusively
from .progress import newest_mark, note, note_file
from .watchdog import HangRule, Watchdog, save_stacks, stacks_file
from .weather import insist

EX_TEMPFAIL = 75  # sysexits.h: a stage that stopped on request and wants to be started again
_RESTART_COUNT = {"slurm": "SLURM_RESTART_COUNT", "local": "SUBMITIT_LOCAL_RESTART_COUNT"}
LOCAL_MASTER_PORT = "SUBMITIT_LOCAL_MASTER_PORT"
_STORAGE_SECONDS = 60.0  # in which storage that is full or away has to take the record of a rank's end
_PR_SET_PDEATHSIG = 1
_RANK_WAIT_SECONDS = 10.0  # for the other ranks' records before a requeue ends them


class StageFailed(RuntimeError):
    """The command of a rank ended with an error."""


@dataclass(frozen=True)
class StageTask:
    """One job's command; submitit calls it once per rank, and again after every requeue."""

    command: str
    """The rule's shell command."""
    shell: str
    """Path of the shell that reads it."""
    workdir: str
    """Where the command runs."""
    attempt_folder: str
    """Absolute folder of the attempt in the journal."""
    earlier_starts: int
    """How often earlier attempts of this job were started."""
    cpus_per_task: int
    """Cores of one rank."""
    grace_seconds: float
    """How long a stage that was asked to stop may take."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables beyond those that the job inherits."""
    hang: HangRule = field(default_factory=HangRule)
    """When silence is a hang."""
    idle_starts: int = 0
    """Starts in a row without progress before the job refuses another; 0: any number."""
    roll_back: bool = False
    """The first start of this attempt goes back behind the newest state."""

    def __call__(self) -> int:
        """Run the command on this rank and return 0; raise StageFailed when it fails."""
        place = JobEnvironment()
        attempt = Attempt(Path(self.attempt_folder))
        restart = int(os.environ.get(_RESTART_COUNT[place.cluster]) or 0)
        refusal = _refusal(attempt, place) if place.cluster == "slurm" else None
        if refusal is not None:
            print(f"{self.attempt_folder}: not started, {refusal}", flush=True)
            return 0
        rank_file = f"rank-{place.global_rank}.json"
        before = RankRecord.read(attempt.folder, rank_file)
        (attempt.folder / rank_file).unlink(missing_ok=True)
        (attempt.folder / note_file(place.global_rank)).unlink(missing_ok=True)  # of the start before a requeue
        if place.global_rank == 0:
            start = StartRecord(restart, list(place.hostnames), furthest(attempt), _was_revived(before))
            replace(attempt.folder, start, f"start-{restart:03d}.json")
            self._refuse_idle_starts(attempt)
        code, stop = self._run(attempt, place, restart)
        record = RankRecord(place.global_rank, restart, code, socket.gethostname(), stop.requested)
        insist(lambda: replace(attempt.folder, record, rank_file), _STORAGE_SECONDS)
        if code == 0:
            insist(lambda: _finish_if_last(attempt, place, restart), _STORAGE_SECONDS)
            return 0
        if stop.requeue:
            _requeue(attempt, place, restart)
        raise StageFailed(
            f"rank {place.global_rank}: the command ended with exit code {code}; see {attempt.rank_log(place.global_rank)}"
        )

    def checkpoint(self) -> DelayedSubmission:
        """Return what a requeued job calls: the same task, the stage finds its own state."""
        return DelayedSubmission(self)

    def _run(self, attempt: Attempt, place: JobEnvironment, restart: int) -> tuple[int, SoftStop]:
        with attempt.rank_log(place.global_rank).open("ab") as log:
            stage = subprocess.Popen(
                [self.shell, "-c", self.command],
                cwd=self.workdir,
                env=self._environment(place, restart),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_command,
            )
        stop = SoftStop(stage, self.grace_seconds)
        stop.listen()
        try:
            code = self._wait(stage, Watchdog(attempt.folder, self.hang), attempt, place)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if stage.returncode is None:
                _signal_group(stage, signal.SIGKILL)  # whatever ends this process must not leave the program behind
        return (code if code >= 0 else 128 - code), stop

    @staticmethod
    def _wait(stage: subprocess.Popen[bytes], watchdog: Watchdog, attempt: Attempt, place: JobEnvironment) -> int:
        """Wait for the program's end, or bring it about when it hangs."""
        while True:
            try:
                return stage.wait(watchdog.poll_seconds)
            except subprocess.TimeoutExpired:
                hang = watchdog.hang()
            if hang:
                with contextlib.suppress(OSError):  # a full disk may be what it hangs on
                    means = save_stacks(stage.pid, stacks_file(attempt.folder, place.global_rank))
                    note(attempt.folder, place.global_rank, "hang", f"{hang}; stacks saved by {means}")
                _await_notes(attempt, place, 2 * (watchdog.poll_seconds or 0.0))
                _signal_group(stage, signal.SIGKILL)
                return stage.wait()

    def _refuse_idle_starts(self, attempt: Attempt) -> None:
        """Raise StageFailed when the job has started too often without progress: a storm that no driver may be watching."""
        starts = attempt.starts()
        idle = sum(start.done == starts[-1].done for start in starts[-self.idle_starts - 1 :]) - 1
        if not self.idle_starts or idle < self.idle_starts:
            return
        cause = f"{idle} starts in a row without progress" + (f" at {starts[-1].done}" if starts[-1].done is not None else "")
        note(attempt.folder, 0, "no progress", cause)
        replace(attempt.folder, RankRecord(0, starts[-1].restart, 1, socket.gethostname()), "rank-0.json")
        raise StageFailed(f"{cause}; see {attempt.rank_log(0)}")

    def _environment(self, place: JobEnvironment, restart: int) -> dict[str, str]:
        env = {**os.environ, **self.environment, **rendezvous(place, restart)}
        env.setdefault("OMP_NUM_THREADS", str(self.cpus_per_task))
        env["SUBMITIT_ATTEMPT"] = str(self.earlier_starts + restart + 1)
        env["SUBMITIT_ATTEMPT_FOLDER"] = self.attempt_folder
        env["SUBMITIT_GRACE_SECONDS"] = f"{self.grace_seconds:g}"
        if self.roll_back and restart == 0:
            env["SUBMITIT_ROLL_BACK"] = "1"
        return env


class SoftStop:
    """Passes a request to stop on to the stage, and ends it when it takes too long."""

    def __init__(self, stage: subprocess.Popen[bytes], grace_seconds: float) -> None:
        self.stage = stage
        self.grace_seconds = grace_seconds
        self.requested = False
        self.requeue = False

    def listen(self) -> None:
        """Take over the signals from submitit: USR2 asks for a stop and a requeue, TERM for a stop."""
        signal.signal(JobEnvironment._usr_sig(), self._on_usr)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGALRM, lambda number, frame: self._send(signal.SIGKILL))

    def _on_usr(self, number: int, frame: FrameType | None) -> None:
        self.requeue = True
        self._stop()

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        # No requeue: this is scancel, or a preemption after which Slurm requeues by itself.
        self._stop()

    def _stop(self) -> None:
        if self.requested:
            return
        self.requested = True
        self._send(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, self.grace_seconds)

    def _send(self, number: signal.Signals) -> None:
        if self.stage.returncode is None:
            _signal_group(self.stage, number)


def _signal_group(stage: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(stage.pid, number)
    except ProcessLookupError:
        return  # it has just ended, and wait() is about to say so


def _await_notes(attempt: Attempt, place: JobEnvironment, seconds: float) -> None:
    """Wait until every rank has saved its stacks: the first that ends takes the others down."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all((attempt.folder / note_file(rank)).exists() for rank in range(place.num_tasks)):
            return
        time.sleep(0.2)


def furthest(attempt: Attempt) -> int | None:
    """Return the furthest that the marks of the job's attempts have come, this one's earlier starts included."""
    attempts = [item for item in JobFolder(attempt.folder.parents[1]).attempts() if item.number <= attempt.number]
    marks = [mark.done for item in attempts if (mark := newest_mark(item.folder)) is not None]
    before = [start.done for start in attempt.starts() if start.done is not None]
    return max([*marks, *before], default=None)


def rendezvous(place: JobEnvironment, restart: int) -> dict[str, str]:
    """Return the variables that torch.distributed's `env://` reads, for the calling rank."""
    port = os.environ.get(LOCAL_MASTER_PORT) or str(20000 + zlib.crc32(f"{place.job_id}.{restart}".encode()) % 20000)
    per_node = place.num_tasks // place.num_nodes
    return {
        "RANK": str(place.global_rank),
        "WORLD_SIZE": str(place.num_tasks),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(per_node),
        "NODE_RANK": str(place.node),
        "NNODES": str(place.num_nodes),
        "MASTER_ADDR": "127.0.0.1" if place.cluster == "local" else place.hostnames[0],
        "MASTER_PORT": port,
    }


def _prepare_command() -> None:
    # Slurm delivers --signal to every process of the step, those in a session of their own too.
    signal.signal(JobEnvironment._usr_sig(), signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # the command does not outlive its launcher


def _refusal(attempt: Attempt, place: JobEnvironment) -> str | None:
    """Register this job as the attempt's; say why not when the attempt is another job's, or nobody's any more."""
    end = attempt.end()
    if end is not None:
        return f"the attempt has ended ({end.outcome}); a newer one may be running"
    job = attempt.job()
    if job is None:
        record = JobRecord(JobKind.SLURM, place.job_id)
        if place.global_rank != 0 or write_exclusively(attempt.folder, record):
            return None
        job = attempt.job()
    if job is None or (job.kind, job.id) == (JobKind.SLURM, place.job_id):
        return None
    return f"the attempt belongs to {job}"


def _was_revived(before: RankRecord | None) -> bool:
    return before is not None and not before.stopped and before.exit_code not in (0, EX_TEMPFAIL)


def _finish_if_last(attempt: Attempt, place: JobEnvironment, restart: int) -> None:
    """Record the success when every rank of this start has ended well; on the local machine the controller does."""
    if place.cluster == "local":
        return
    codes = {rank: item.exit_code for rank, item in attempt.ranks().items() if item.restart == restart}
    if len(codes) == place.num_tasks and not any(codes.values()):
        exit_codes = {str(rank): code for rank, code in sorted(codes.items())}
        attempt.finish(End(Outcome.SUCCESS, exit_code=0, exit_codes=exit_codes))


def _requeue(attempt: Attempt, place: JobEnvironment, restart: int) -> None:
    """Have the job started again once every rank has stopped; rank 0 asks, the others wait to be ended.

    The stored task stays as it is, so this can be done any number of times.
    """
    deadline = time.monotonic() + (_RANK_WAIT_SECONDS if place.global_rank == 0 else 6 * _RANK_WAIT_SECONDS)
    while place.cluster == "slurm" and time.monotonic() < deadline:
        ended = sum(item.restart == restart for item in attempt.ranks().values())
        if place.global_rank == 0 and ended == place.num_tasks:
            break
        time.sleep(0.2)
    place._requeue(0)
    sys.exit(EX_TEMPFAIL)
