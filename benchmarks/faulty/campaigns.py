"""One disturbed campaign: faults at random instants, the driver started again as a user would, and what came of it."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.faulty.workloads import REWARD_SERVER, ROLLOUT_SERVER, Chain, OnlineRL, Shards, Workload
from tests.cluster import faults
from tests.cluster.configuration import ClusterError
from tests.cluster.processes import all_processes
from tests.cluster.slurm import SlurmCluster

PAUSE_SECONDS = (1.0, 6.0)  # of undisturbed work between two faults
BROKEN_SECONDS = (2.0, 12.0)  # before what a person would repair is repaired
RECOVERY_SECONDS = 300.0
_LOOK_SECONDS = 0.2
_ROUND_SECONDS = 10.0
_DRIVER_SIGNALS = {"driver-kill": signal.SIGKILL, "driver-ctrl-c": signal.SIGINT, "driver-hangup": signal.SIGHUP}
_HITS_A_JOB = ("preempt", "walltime", "walltime-at-once", "requeue", "cancel", "hang", "kill-rank", "node-death")

Make = Callable[[random.Random, Workload, str], faults.Fault]
_ON_JOBS: dict[str, Make] = {
    "preempt": lambda rng, w, job: faults.Preempt(w.cluster, job, seconds=rng.uniform(1, 4)),
    "walltime": lambda rng, w, job: faults.Walltime(w.cluster, job),
    "walltime-at-once": lambda rng, w, job: faults.Walltime(w.cluster, job, at_once=True),
    "requeue": lambda rng, w, job: faults.Requeue(w.cluster, job),
    "cancel": lambda rng, w, job: faults.Cancel(w.cluster, job),
}
_ON_RANKS: dict[str, Make] = {
    "hang": lambda rng, w, job: faults.Hang(w.cluster, job, rng.randrange(w.ranks)),
    "kill-rank": lambda rng, w, job: faults.KillRank(w.cluster, job, rng.randrange(w.ranks)),
}
_ON_SERVERS: dict[str, Make] = {
    "rollout-server-kill": lambda rng, w, job: faults.KillServer(w.cluster, job, ROLLOUT_SERVER),
    "reward-server-kill": lambda rng, w, job: faults.KillServer(w.cluster, job, REWARD_SERVER),
}
_ON_THE_CLUSTER: dict[str, Make] = {
    "node-death": lambda rng, w, job: faults.NodeDeath(w.cluster, rng.choice(w.cluster.layout.nodes)),
    "controller-kill": lambda rng, w, job: faults.ControllerKill(w.cluster),
    "controller-kill-forget": lambda rng, w, job: faults.ControllerKill(w.cluster, forget=True),
    "controller-stop": lambda rng, w, job: faults.ControllerStop(w.cluster),
    "controller-hung": lambda rng, w, job: faults.ControllerStop(w.cluster, hung=True),
    "slow-squeue": lambda rng, w, job: faults.Slow(w.cluster, "squeue", rng.uniform(3, 15)),
    "slow-sbatch": lambda rng, w, job: faults.Slow(w.cluster, "sbatch", rng.uniform(3, 15)),
    "failing-squeue": lambda rng, w, job: faults.Failing(w.cluster, "squeue"),
    "failing-sacct": lambda rng, w, job: faults.Failing(w.cluster, "sacct"),
    "failing-sbatch": lambda rng, w, job: faults.Failing(w.cluster, "sbatch"),
    "sbatch-answer-lost": lambda rng, w, job: faults.Failing(w.cluster, "sbatch", answer_lost=True),
}
_ON_ACCOUNTING: dict[str, Make] = {"accounting-down": lambda rng, w, job: faults.AccountingDown(w.cluster)}
_ON_THE_DISK: dict[str, Make] = {"full-disk": lambda rng, w, job: faults.FullDisk(w.cluster, w.folder)}
KINDS = (*_DRIVER_SIGNALS, *_ON_JOBS, *_ON_RANKS, *_ON_SERVERS, *_ON_THE_CLUSTER, *_ON_ACCOUNTING, *_ON_THE_DISK)


@dataclass(frozen=True)
class Record:
    """One injected fault."""

    kind: str
    workload: str
    survived: bool
    seconds: float
    """From the fault to progress that the fault could have prevented, repair included."""
    restarts: int
    """How often the driver had to be started again by hand."""


@dataclass
class Ended:
    """What came of one campaign."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What must never happen: empty for a product that keeps its promise."""


def kinds_for(workload: Workload) -> dict[str, Make | None]:
    """The faults that mean something to this workload; None for what is done to its driver."""
    if isinstance(workload, OnlineRL):
        some = {kind: make for kind, make in {**_ON_JOBS, **_ON_RANKS}.items() if kind in ("preempt", "kill-rank")}
        return {"driver-kill": None, **some, **_ON_SERVERS}
    kinds: dict[str, Make | None] = {**dict.fromkeys(_DRIVER_SIGNALS), **_ON_JOBS, **_ON_RANKS, **_ON_THE_CLUSTER}
    if isinstance(workload, Shards):
        del kinds["hang"]  # shards leave no marks, so their silence means nothing
    if workload.cluster.layout.accounting:
        kinds |= _ON_ACCOUNTING
    if isinstance(workload, Chain):
        kinds |= _ON_THE_DISK
    return kinds


class Campaign:
    """Runs one workload to its end under faults."""

    def __init__(self, workload: Workload, rng: random.Random, kinds: Iterator[str], may_break: Callable[[], bool]) -> None:
        self.workload, self.rng, self.kinds, self.may_break = workload, rng, kinds, may_break
        self.driver: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.round = 0.0
        self.ended = Ended()

    def run(self, reference: dict[str, str]) -> Ended:
        """Disturb until the faults are used up or the work is done; then let it finish and compare."""
        self.driver = self.workload.start_driver()
        try:
            while not self._finished():
                self._pause()
                if self._finished():
                    break
                if not self.may_break():
                    self._await_end()
                elif not self._break():
                    break
        finally:
            self.driver.kill()
            self.driver.wait()
        self._judge(reference)
        return self.ended

    def _pause(self) -> None:
        """Let it work for a while, counted from when something runs."""
        end = time.monotonic() + RECOVERY_SECONDS
        while not self._finished() and not self.workload.running_jobs() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        quiet = time.monotonic() + self.rng.uniform(*PAUSE_SECONDS)
        while not self._finished() and time.monotonic() < quiet:
            time.sleep(_LOOK_SECONDS)

    def _break(self) -> bool:
        """Inflict one fault and wait until it is overcome; False when it isn't."""
        workload, restarts = self.workload, self.restarts
        makers = kinds_for(workload)
        kind = next(kind for kind in self.kinds if kind in makers)
        inflicted = self._inflict(kind, makers[kind])
        if inflicted is None:
            return True  # the campaign has ended
        fault, began, starts = inflicted
        with contextlib.suppress(ClusterError):
            if fault is not None and fault.way_back and kind != "hang":
                self._wait(self.rng.uniform(*BROKEN_SECONDS))
                fault.repair()
        hit = kind in _HITS_A_JOB and not (kind == "node-death" and isinstance(workload, Shards))
        survived = self._recovered(starts if hit else None)
        self.ended.records.append(
            Record(kind, type(workload).__name__.lower(), survived, time.monotonic() - began, self.restarts - restarts)
        )
        if not survived:
            self.ended.problems.append(f"{kind}: no progress within {RECOVERY_SECONDS:.0f} s")
        return survived

    def _inflict(self, kind: str, make: Make | None) -> tuple[faults.Fault | None, float, int] | None:
        """Inflict as soon as there is something to break; return the fault, when, and how many starts there were then."""
        if make is None:
            began, starts = time.monotonic(), self.workload.starts()
            self._signal_driver(_DRIVER_SIGNALS[kind])
            return None, began, starts
        while not self._finished():
            jobs = self._jobs_to_break() if kind in {**_ON_JOBS, **_ON_RANKS, **_ON_SERVERS} else [""]
            fault = make(self.rng, self.workload, self.rng.choice(jobs or [""]))
            began, starts = time.monotonic(), self.workload.starts()
            try:
                fault.inflict()
            except ClusterError:
                time.sleep(_LOOK_SECONDS)  # the job has just ended, or has not begun yet
            else:
                return fault, began, starts
        return None

    def _jobs_to_break(self) -> list[str]:
        """Running jobs, waited for; none when the campaign ends first."""
        end = time.monotonic() + RECOVERY_SECONDS
        while not (jobs := self.workload.running_jobs()) and not self._finished() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return jobs

    def _signal_driver(self, number: signal.Signals) -> None:
        assert self.driver is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.driver.pid, number)
        self.driver.wait()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._finished() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def _finished(self) -> bool:
        """Whether the driver has ended well; one that has not is started again, as by its user."""
        assert self.driver is not None
        code = self.driver.poll()
        self._administer()
        if code:
            self.restarts += 1
            self.driver = self.workload.start_driver()
        return code == 0

    def _administer(self) -> None:
        """What an administrator does about nodes that Slurm drained: a controller that forgets jobs gives their ids again."""
        if time.monotonic() > self.round:
            self.round = time.monotonic() + _ROUND_SECONDS
            cluster = self.workload.cluster
            drained = cluster.ask("sinfo", "-h", "-N", "-t", "drain", "-o", "%N").split()
            for node in {*drained} & {*cluster.layout.nodes}:
                cluster.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def _recovered(self, starts: int | None) -> bool:
        """Wait for progress, after a job has started again where the fault ends one (`starts` before it)."""
        end, before = time.monotonic() + RECOVERY_SECONDS, self.workload.progress()
        done = before // 10**7
        while time.monotonic() < end:
            if self._finished():
                return True
            if starts is not None and self.workload.starts() > starts:
                starts, before = None, self.workload.progress()
            now = self.workload.progress()
            if starts is None and now > before or now // 10**7 > done:
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def _await_end(self) -> None:
        end = time.monotonic() + 2 * RECOVERY_SECONDS
        while not self._finished() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        if not self._finished():
            self.ended.problems.append("did not end")
            raise TimeoutError(f"{self.workload.folder} did not end; see its driver.log")

    def _judge(self, reference: dict[str, str]) -> None:
        """Compare with the undisturbed campaign, and look for what must never be."""
        results = self.workload.results()
        differing = [name for name in sorted({*reference, *results}) if reference.get(name) != results.get(name)]
        self.ended.problems += [f"{name} is not what an undisturbed campaign made" for name in differing]
        self.ended.problems += self.workload.violations()
        end = time.monotonic() + 30
        while (left := _job_processes(self.workload.cluster)) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        self.ended.problems += [f"process {pid} is left" for pid in left]


def _job_processes(cluster: SlurmCluster) -> list[int]:
    """Processes that a job of the cluster has left."""
    configuration = str(cluster.layout.configuration)
    return [
        process.pid
        for process in all_processes()
        if "SLURM_JOB_ID" in process.environment and process.environment.get("SLURM_CONF") == configuration
    ]
