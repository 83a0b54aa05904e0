"""What Slurm does to jobs: preemption, walltime, requeue, cancellation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..configuration import ClusterError
from .fault import Fault, argument, known_job

_NEXT_TICK_SECONDS = 35  # slurmctld looks at time limits every 30 s


@dataclass(frozen=True)
class Preempt(Fault):
    """A job of the higher partition `main` takes the nodes of a job in partition `preempt`, for a few seconds.

    Slurm sends the job's --signal at once. If the job is still there 5 to 35 s later (5 s of GraceTime, looked at every
    30 s), it is killed and waits again. One that ends by itself meanwhile has ended: it is not requeued. Submit with
    --partition=preempt, or use the site file that `start` wrote, whose jobs all run there.
    """

    kind: ClassVar[str] = "preempt"

    job: str = argument("id of a running job in partition preempt")
    seconds: float = argument("how long the nodes are taken", default=3.0)

    def inflict(self) -> str:
        """See Fault."""
        job = known_job(self.cluster, self.job, "RUNNING")
        if job.partition != "preempt":
            raise ClusterError(f"job {job.id} is in partition {job.partition}; only jobs in partition preempt can be preempted")
        line = self.cluster.order("squeue", "-h", "-w", job.nodes, "-p", "main", "-t", "RUNNING", "-o", "%i")
        if line.split():
            raise ClusterError(f"job {job.id} shares {job.nodes} with {', '.join(line.split())} in main, which nothing preempts")
        size = [f"--nodelist={job.nodes}", f"--nodes={job.node_count}", "--exclusive", "--time=1"]
        quiet = ["--parsable", "--job-name=intruder", "--chdir=/", "--output=/dev/null", "--no-requeue"]
        intruder = self.cluster.order("sbatch", "--partition=main", *size, *quiet, f"--wrap=sleep {self.seconds}").strip()
        return f"job {intruder} takes {job.nodes} from job {job.id} for {self.seconds:g} s"


@dataclass(frozen=True)
class Walltime(Fault):
    """The job reaches its time limit: its --signal within 30 s, TERM up to 30 s later, KILL 5 s after that.

    slurmctld looks at limits every 30 s only. With --at-once the limit has passed already: all within 30 s, and the signal
    together with TERM.
    """

    kind: ClassVar[str] = "walltime"

    job: str = argument("id of a running job")
    at_once: bool = argument("no time between the signal and the end", default=False)

    def inflict(self) -> str:
        """See Fault."""
        job = known_job(self.cluster, self.job, "RUNNING")
        seconds = 1 if self.at_once else _NEXT_TICK_SECONDS
        self.cluster.order("scontrol", "update", f"JobId={job.id}", f"EndTime=now+{seconds}seconds")
        return f"job {job.id} has {seconds} s left; slurmctld ends it at its next look after that, every 30 s"


@dataclass(frozen=True)
class Requeue(Fault):
    """scontrol requeue: the job is killed and waits again, at least 6 s."""

    kind: ClassVar[str] = "requeue"

    job: str = argument("id of a running job")

    def inflict(self) -> str:
        """See Fault."""
        job = known_job(self.cluster, self.job, "RUNNING")
        self.cluster.order("scontrol", "requeue", job.id)
        return f"job {job.id} is requeued"


@dataclass(frozen=True)
class Cancel(Fault):
    """scancel: the job is CANCELLED."""

    kind: ClassVar[str] = "cancel"

    job: str = argument("id of a job that waits or runs")

    def inflict(self) -> str:
        """See Fault."""
        job = known_job(self.cluster, self.job, "RUNNING", "PENDING")
        self.cluster.order("scancel", job.id)
        return f"job {job.id} is cancelled"
