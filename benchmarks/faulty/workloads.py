"""The campaigns that are disturbed: a hash chain over two nodes, shard jobs, and the real pretraining."""

import json
import os
import shutil
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from snakemake_executor_plugin_submitit.journal import Attempt, Outcome, read_jobs
from snakemake_executor_plugin_submitit.progress import newest_mark
from tests.cluster.slurm import SlurmCluster
from tests.lifecycle.post_training import with_reward_model
from tests.lifecycle.project import SITE, Project, recipe

_CHECKOUT = Path(__file__).resolve().parents[2]
_CHAIN = Path(__file__).with_name("chain.py")
_COMMON_FLAGS = [
    *("--jobs", "100", "--scheduler", "greedy", "--latency-wait", "10", "--rerun-incomplete", "--nolock"),
    *("--keep-going", "--quiet", "rules", "progress", "host"),
]
_FLAGS = ["--executor", "submitit", "--submitit-cluster", "slurm", *_COMMON_FLAGS]
_PEER_FLAGS = [
    *("--executor", "slurm", "--slurm-no-account", "--slurm-requeue", "--retries", "3"),
    *("--slurm-init-seconds-before-status-checks", "5"),
]
_PATIENCE = [
    *("--submitit-queue-poll-seconds", "3", "--submitit-signal-delay-seconds", "30"),
    *("--submitit-hang-seconds", "6", "--submitit-bad-node-hours", "0"),
]
CHAIN = """
rule all:
    input: "second.result"
rule first:
    output: "first.result"
    resources: nodes=2, tasks=2{mpi}, runtime=60, mem_mb=500, slurm_partition="preempt"
    shell: "{rank} first {steps}"
rule second:
    input: "first.result"
    output: "second.result"
    resources: nodes=2, tasks=2{mpi}, runtime=60, mem_mb=500, slurm_partition="preempt"
    shell: "{rank} second {steps}"
"""
PEER_RANK = """
echo $1 $SLURM_JOB_ID $SLURM_PROCID >> starts
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS SUBMITIT_ATTEMPT_FOLDER=.
exec {python} chain.py "$@"
"""
SHARDS = """
rule all:
    input: expand("shard-{{n}}.result", n=range({shards}))
rule shard:
    output: "shard-{{n}}.result"
    resources: runtime=60, mem_mb=200, slurm_partition="preempt"
    shell:
        "exec 9>lock-{{wildcards.n}}; "
        "flock -n 9 || {{{{ echo shard {{wildcards.n}} runs twice at once >> violations; exit 1; }}}}; "
        "sleep {seconds}; echo {{wildcards.n}} | sha256sum > .draft-{{wildcards.n}}; mv .draft-{{wildcards.n}} {{output}}"
"""
ROLLOUT_SERVER, REWARD_SERVER = "tests.rl.completions_server", "athanor.rewards.polar.server"
_SERVED: dict[str, object] = {
    "server_command": f"{sys.executable} -m {ROLLOUT_SERVER} {{model}} {{port}} {{name}}",
    "server_seconds": 120,
    "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{_CHECKOUT}:{_CHECKOUT / 'workflow'}"},
}
_RESULTS = ("fingerprint", "files", "counters", "upstreams")


@dataclass(frozen=True)
class Workload(ABC):
    """One campaign in `folder`, on `cluster`."""

    folder: Path
    cluster: SlurmCluster
    ranks: ClassVar[int] = 2

    @abstractmethod
    def lay_out(self) -> None:
        """Fill the folder."""

    @abstractmethod
    def results(self) -> dict[str, str]:
        """What the finished campaign has made; the same for a disturbed and an undisturbed one."""

    @property
    def journal(self) -> Path:
        """Where the attempts of its jobs are."""
        return self.folder / ".submitit"

    def start_driver(self) -> "subprocess.Popen[bytes]":
        """Start snakemake, as a user would."""
        return self._start([*_FLAGS, *_PATIENCE], {})

    def _start(self, arguments: list[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, **self.cluster.environment, "PYTHONPATH": str(_CHECKOUT / "workflow"), **variables}
        with (self.folder / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def attempts(self) -> list[list[Attempt]]:
        """Return the attempts of every job."""
        return list(read_jobs(self.journal).values()) if self.journal.exists() else []

    def progress(self) -> int:
        """A number that grows with every step and every finished job."""
        total = 0
        for attempts in self.attempts():
            marks = [mark.done for attempt in attempts if (mark := newest_mark(attempt.folder)) is not None]
            total += max(marks, default=0) + 10**7 * any(_succeeded(attempt) for attempt in attempts)
        return total

    def starts(self) -> int:
        """How often a job of the campaign has begun."""
        return sum(len(attempt.starts()) for attempts in self.attempts() for attempt in attempts)

    def running_jobs(self) -> list[str]:
        """Ids of the Slurm jobs that can be broken now."""
        live = [attempts[-1] for attempts in self.attempts() if attempts and attempts[-1].end() is None]
        jobs = [attempt.job() for attempt in live]
        states = {job.id for job in self.cluster.jobs() if job.state == "RUNNING"}
        return sorted(job.id for job in jobs if job is not None and job.id in states)

    def violations(self) -> list[str]:
        """What must never happen: a job twice at once, or again after it was done."""
        found = self.noted_violations()
        for attempts in self.attempts():
            done = [attempt.number for attempt in attempts if _succeeded(attempt)]
            if len(done) > 1 or done and done[0] != attempts[-1].number:
                found.append(f"{attempts[0].folder.parents[1].name}: attempt {done[0]} had done it, {len(attempts)} were made")
        return found

    def noted_violations(self) -> list[str]:
        """What the jobs themselves have seen of a twin."""
        noted = self.folder / "violations"
        return noted.read_text().splitlines() if noted.exists() else []


def _succeeded(attempt: Attempt) -> bool:
    end = attempt.end()
    return end is not None and end.outcome is Outcome.SUCCESS


class Chain(Workload):
    """Two stages of two ranks on two nodes, one after the other."""

    steps = 500

    def lay_out(self) -> None:
        """See Workload."""
        shutil.copy(_CHAIN, self.folder)
        (self.folder / "Snakefile").write_text(CHAIN.format(rank=f"exec {sys.executable} chain.py", steps=self.steps, mpi=""))

    def results(self) -> dict[str, str]:
        """See Workload."""
        return {path.name: path.read_text() for path in sorted(self.folder.glob("*.result"))}


class PeerChain(Chain):
    """The same chain under snakemake-executor-plugin-slurm, as its documentation has MPI jobs, with its flags for failures."""

    def lay_out(self) -> None:
        """See Workload."""
        super().lay_out()
        (self.folder / "Snakefile").write_text(
            CHAIN.format(rank="{resources.mpi} --kill-on-bad-exit sh rank.sh", steps=self.steps, mpi=', mpi="srun"')
        )
        (self.folder / "rank.sh").write_text(PEER_RANK.format(python=sys.executable))

    def start_driver(self) -> "subprocess.Popen[bytes]":
        """See Workload."""
        return self._start([*_PEER_FLAGS, *_COMMON_FLAGS], {})

    def starts(self) -> int:
        """See Workload: ranks note their starts."""
        noted = self.folder / "starts"
        return len(noted.read_text().splitlines()) if noted.exists() else 0

    def progress(self) -> int:
        """See Workload."""
        saved = [json.loads(path.read_text())["step"] for path in self.folder.glob("chain/*/saved-0.json")]
        return sum(saved) + 10**7 * len(self.results())

    def running_jobs(self) -> list[str]:
        """See Workload."""
        return sorted(job.id for job in self.cluster.jobs() if job.state == "RUNNING" and job.node_count == self.ranks)

    def violations(self) -> list[str]:
        """See Workload: what the ranks have seen."""
        return self.noted_violations()


class Shards(Workload):
    """Equal jobs of some seconds, as an array."""

    shards, seconds, ranks = 12, 8, 1

    def lay_out(self) -> None:
        """See Workload."""
        (self.folder / "Snakefile").write_text(SHARDS.format(shards=self.shards, seconds=self.seconds))

    def results(self) -> dict[str, str]:
        """See Workload."""
        return {path.name: path.read_text() for path in sorted(self.folder.glob("*.result"))}


class Pretraining(Workload):
    """The real lifecycle at its smallest, with two longer milestones of two ranks on two nodes."""

    ranks_per_node = 1

    def lay_out(self) -> None:
        """See Workload."""
        project = Project.make(self.folder)
        settings = recipe()
        settings["pretrain"]["parallel"]["ranks"] = self.ranks  # type: ignore[index]
        settings["pretrain"] |= {"milestone_tokens": [49152], "token_budget": 98304}  # type: ignore[operator]
        project.write_recipe("tiny", settings)
        resources = {"cpus_per_task": 1, "memory": "1GB", "partition": "preempt", "runtime": "1h"}
        project.write(
            "config/sites/laptop.yaml",
            {**SITE, "ranks_per_node": self.ranks_per_node, "hang_minutes": "1min", "resources": {"default": resources}},
        )
        locked = project.athanor("recipe", "lock", "tiny")
        assert locked.returncode == 0, locked.stderr

    @property
    def journal(self) -> Path:
        """See Workload: the milestones' own folders."""
        return self.folder / "store" / "pretrain"

    def start_driver(self) -> "subprocess.Popen[bytes]":
        """See Workload."""
        return self._start(_PATIENCE, {"ATHANOR_PROJECT": str(self.folder), "PYTHONWARNINGS": "ignore"})

    def results(self) -> dict[str, str]:
        """See Workload: the result part of every manifest."""
        found = {}
        for path in sorted((self.folder / "store").glob("*/*/manifest.json")):
            result = json.loads(path.read_text())["result"]
            found[str(path.parent.relative_to(self.folder))] = json.dumps(
                {name: result[name] for name in _RESULTS}, sort_keys=True
            )
        return found


class Lifecycle(Pretraining):
    """The same on two nodes of two ranks each, for a fixed row of faults."""

    ranks, ranks_per_node = 4, 2


class OnlineRL(Pretraining):
    """Online RL of two ranks on two nodes, with a rollout server and, on each node, a reward server; what it needs is there."""

    rounds = 20
    _prepared = threading.Lock()

    def lay_out(self) -> None:
        """See Workload: a copy of a project whose campaign stands before online RL, made once beside it."""
        with self._prepared:
            if not (there := self.folder.parent / "prepared").exists():
                self._prepare(draft := there.with_suffix(".partial"))
                draft.rename(there)
        shutil.copytree(there, self.folder, symlinks=True, dirs_exist_ok=True)
        resources = {"cpus_per_task": 1, "memory": "2GB", "partition": "preempt", "runtime": "1h"}
        site = {**SITE, "ranks_per_node": self.ranks_per_node, "hang_minutes": "3min", "resources": {"default": resources}}
        Project(self.folder).write("config/sites/laptop.yaml", {**site, **_SERVED})

    def _prepare(self, folder: Path) -> None:
        project = Project(folder) if folder.exists() else with_reward_model(Project.make(folder))
        settings = yaml.safe_load((folder / "config/recipes/tiny.yaml").read_text())
        online = settings["online"]
        online |= {"reward_engine": "server", "token_budget": self.rounds * 8192, "checkpoint": {"every_tokens": 12288}}
        project.write_recipe("tiny", settings | {"rollouts": {"engine": "server"}})
        project.write("config/sites/laptop.yaml", {**SITE, **_SERVED})
        done = project.snakemake("--omit-from", "learn_online")
        assert done.returncode == 0, done.stderr

    @property
    def journal(self) -> Path:
        """See Workload: online RL's own."""
        return self.folder / "store" / "online"


WORKLOADS: dict[str, type[Workload]] = {
    "chain": Chain,
    "shards": Shards,
    "pretrain": Pretraining,
    "lifecycle": Lifecycle,
    "online": OnlineRL,
}
