"""The process that runs one local job: detached from the driver, it starts its ranks and ends them together.

`python -m snakemake_executor_plugin_submitit.controller ATTEMPT_FOLDER`. It speaks submitit's local protocol (the
SUBMITIT_LOCAL_* variables, exit code 144 for a requeue) with what submitit's own controller lacks: its own session, all
ranks ended when one dies, no cap on requeues, a record of the outcome. Standard library only, as there is one per job.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .journal import Attempt, End, JobKind, JobRecord, Outcome, write_exclusively
from .processes import this_process

LOCAL_REQUEUE_EXIT_CODE = 144  # submitit.local.local.LOCAL_REQUEUE_RETURN_CODE
ALIVE_FILE = "alive"  # touched so that other machines can tell that the controller lives
_ALIVE_SECONDS = 15.0
_END_GRACE_SECONDS = 5.0  # for the other ranks, when one has failed
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass
class Controller:
    """Runs the ranks of one attempt on this machine."""

    attempt: Attempt
    command: list[str]
    ranks: int
    timeout_seconds: float
    """0: none."""
    signal_delay_seconds: float
    cancelled: bool = False

    def run(self) -> None:
        """Run the job, as often as it asks for a requeue, and record its outcome."""
        restart = 0
        while True:
            codes, first_failed, timed_out = self._run_once(restart)
            if LOCAL_REQUEUE_EXIT_CODE not in codes.values() or self.cancelled:
                break
            restart += 1
        self.attempt.finish(self._outcome(codes, first_failed, timed_out))

    def _run_once(self, restart: int) -> tuple[dict[int, int], int | None, bool]:
        """Start all ranks and wait for them; return their exit codes, the first that failed, whether time was up."""
        port = _free_port()
        processes = {rank: self._start_rank(rank, restart, port) for rank in range(self.ranks)}
        codes: dict[int, int] = {}
        first_failed: int | None = None
        clock = _Clock(self.timeout_seconds, self.signal_delay_seconds)
        while len(codes) < self.ranks:
            signalled = signal.sigtimedwait(_SIGNALS, clock.seconds_to_next(self.attempt))
            codes.update(_reap(processes, codes))
            failed = next((rank for rank, code in codes.items() if code not in (0, LOCAL_REQUEUE_EXIT_CODE)), None)
            if signalled is not None and signalled.si_signo == signal.SIGTERM:
                self.cancelled = True
            if first_failed is None and failed is not None and not clock.soft_stop_sent:
                first_failed = failed
            if self.cancelled or failed is not None or clock.hard_stop_due():
                codes.update(_end_together(processes, codes))
                first_failed = failed if first_failed is None else first_failed
            elif clock.soft_stop_due():
                for rank in processes.keys() - codes.keys():
                    processes[rank].send_signal(signal.SIGUSR2)
        _kill_descendants()
        return codes, first_failed, clock.hard_stop_due()

    def _start_rank(self, rank: int, restart: int, port: int) -> subprocess.Popen[bytes]:
        env = dict(
            os.environ,
            SUBMITIT_LOCAL_LOCALID=str(rank),
            SUBMITIT_LOCAL_GLOBALID=str(rank),
            SUBMITIT_LOCAL_JOB_ID=str(os.getpid()),
            SUBMITIT_LOCAL_RESTART_COUNT=str(restart),
            SUBMITIT_LOCAL_MASTER_PORT=str(port),
        )
        with (self.attempt.submitit_folder / f"{os.getpid()}_{rank}_log.out").open("ab") as log:
            return subprocess.Popen(
                self.command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_prepare_rank
            )

    def _outcome(self, codes: dict[int, int], first_failed: int | None, timed_out: bool) -> End:
        records = self.attempt.ranks()
        exit_codes = {str(rank): records[rank].exit_code if rank in records else code for rank, code in sorted(codes.items())}
        if not any(exit_codes.values()):
            return End(Outcome.SUCCESS, exit_code=0, exit_codes=exit_codes)
        if first_failed is None:
            first_failed = next((rank for rank, code in codes.items() if code), None)
        code = None if first_failed is None else exit_codes[str(first_failed)]
        outcome = Outcome.CANCELLED if self.cancelled else Outcome.FAILED
        cause = "cancelled" if self.cancelled else "time limit" if timed_out else "exit code"
        return End(outcome, cause, code, first_failed, exit_codes, "TIMEOUT" if timed_out else "")


class _Clock:
    """When the soft and the hard stop of a time limit, and the next sign of life, are due."""

    def __init__(self, timeout_seconds: float, signal_delay_seconds: float) -> None:
        self.hard = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
        self.soft = self.hard - min(signal_delay_seconds, timeout_seconds / 2)
        self.soft_stop_sent = False

    def seconds_to_next(self, attempt: Attempt) -> float:
        (attempt.folder / ALIVE_FILE).touch()
        due = self.hard if self.soft_stop_sent else self.soft
        return max(0.0, min(_ALIVE_SECONDS, due - time.monotonic()))

    def soft_stop_due(self) -> bool:
        """Say once that the soft stop is due."""
        due = not self.soft_stop_sent and time.monotonic() >= self.soft
        self.soft_stop_sent = self.soft_stop_sent or due
        return due

    def hard_stop_due(self) -> bool:
        return time.monotonic() >= self.hard


def _reap(processes: dict[int, subprocess.Popen[bytes]], known: dict[int, int]) -> dict[int, int]:
    """Return the exit codes of ranks that have ended since, in the order of their ends; reap adopted orphans too."""
    rank_of = {process.pid: rank for rank, process in processes.items() if rank not in known}
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        if pid in rank_of:
            code = os.waitstatus_to_exitcode(status)
            processes[rank_of[pid]].returncode = code
            ended[rank_of[pid]] = code if code >= 0 else 128 - code
    return ended


def _end_together(processes: dict[int, subprocess.Popen[bytes]], known: dict[int, int]) -> dict[int, int]:
    """Ask the ranks that still run to end, then make them; return their exit codes."""
    left = processes.keys() - known.keys()
    codes: dict[int, int] = {}
    deadline = time.monotonic() + _END_GRACE_SECONDS
    while len(codes) < len(left) and time.monotonic() < deadline:
        for rank in left - codes.keys():  # again and again: a rank that is just starting doesn't listen yet
            processes[rank].send_signal(signal.SIGTERM)
        signal.sigtimedwait({signal.SIGCHLD}, 0.2)
        codes.update(_reap(processes, {**known, **codes}))
    for rank in left - codes.keys():
        processes[rank].kill()
        codes[rank] = 128 - processes[rank].wait() if processes[rank].returncode is None else 137
    return codes


def _kill_descendants() -> None:
    """Kill whatever the ranks have left behind; as their subreaper this process inherited all of it."""
    while True:
        try:
            with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", encoding="ascii") as file:
                children = [int(pid) for pid in file.read().split()]
        except FileNotFoundError:
            return  # a kernel without this file; the ranks themselves have ended
        if not children:
            return
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _prepare_rank() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # a rank doesn't outlive its controller


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Register as the job of the attempt, unless another driver took the attempt over, and run it."""
    attempt = Attempt(Path(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    process = this_process()
    if not write_exclusively(attempt.folder, JobRecord(JobKind.LOCAL, str(process.pid), process)):
        sys.exit(f"{attempt.folder} belongs to {attempt.job()}")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Controller(
        attempt,
        command=shlex.split(os.environ["SUBMITIT_LOCAL_COMMAND"]),
        ranks=int(os.environ["SUBMITIT_LOCAL_NTASKS"]),
        timeout_seconds=float(os.environ["SUBMITIT_LOCAL_TIMEOUT_S"]),
        signal_delay_seconds=float(os.environ["SUBMITIT_LOCAL_SIGNAL_DELAY_S"]),
    ).run()


if __name__ == "__main__":
    main()
