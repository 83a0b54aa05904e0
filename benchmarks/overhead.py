"""What the executor costs: CPU, wall time and controller RPCs a job, beside snakemake-executor-plugin-slurm on the same Slurm.

Starts a Slurm of its own (tests/cluster; root, Debian's packages). Each row is one `snakemake` with many jobs that touch
a file: equal ones, sent as arrays and one by one, and 20 rules of unequal resources. Eight jobs run at a time, so
that the nested Snakemakes of the peer fit into memory. CPU is the whole machine's, daemons included: keep it idle.

    python benchmarks/overhead.py [--quick] [--jobs N] [--peer-jobs N] [--json FILE] [--seed N] [--folder DIR]

Rows lie in --folder: started again, it goes on where it was stopped.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from tests.cluster.slurm import SlurmCluster, running_cluster  # noqa: E402 - the checkout is no installed package

AIM_CPU, AIM_RPCS, AIM_SUBMIT_SECONDS, AIM_SUCCESSOR_SECONDS = 0.25, 0.1, 5.0, 2.0
CORES_A_JOB = 16  # of the fake nodes' 128
EQUAL = """
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule work:
    output: "out/{{n}}"
    threads: {cores}
    resources: mem_mb=100, runtime=30, slurm_partition="main"
    shell: "touch {{output}}"
"""
UNEQUAL = """
rule all:
    input: expand("out/{{r}}/{{n}}", r=range(20), n=range({jobs} // 20))
for r in range(20):
    rule:
        name: f"work{{r}}"
        output: f"out/{{r}}/{{{{n}}}}"
        threads: {cores}
        resources: mem_mb=100 + r, runtime=30, slurm_partition="main"
        shell: "touch {{output}}"
"""
CHAIN = """
rule all:
    input: "out/{jobs}"
rule first:
    output: "out/1"
    resources: mem_mb=100, runtime=30, slurm_partition="main"
    shell: "touch {{output}}"
rule next:
    input: lambda wildcards: f"out/{{int(wildcards.n) - 1}}"
    output: "out/{{n}}"
    wildcard_constraints: n="[2-9]|[1-9][0-9]+"
    resources: mem_mb=100, runtime=30, slurm_partition="main"
    shell: "touch {{output}}"
"""
CHAIN_JOBS = 6
OURS = ["--executor", "submitit", "--submitit-cluster", "slurm"]
THEIRS = ["--executor", "slurm", "--slurm-no-account", "--slurm-status-command", "squeue"]  # there is no accounting
THEIR_ARRAY = (
    50  # larger ones leave sbatch's command line, and version 2.8.0 then writes a script whose tasks all run the first job
)
CONTESTANTS = {
    "submitit, arrays": (OURS, EQUAL),
    "submitit, one by one": ([*OURS, "--submitit-array-size", "1"], EQUAL),
    "submitit, 20 unequal rules": (OURS, UNEQUAL),
    "slurm, arrays": ([*THEIRS, "--slurm-array-jobs", "all", "--slurm-array-limit", str(THEIR_ARRAY)], EQUAL),
    "slurm, one by one": (THEIRS, EQUAL),
    "slurm, 20 unequal rules": (THEIRS, UNEQUAL),
}
SNAKEMAKE = [
    *(sys.executable, "-m", "snakemake", "--scheduler", "greedy", "--quiet", "all"),
    *(
        "--scheduler-subsample",
        "1000",
        "--max-jobs-per-timespan",
        "10000/1s",
    ),  # profiles/default's; without, 100 jobs go at a time
]
RECORD = '#!/bin/sh\n{real} "$@"; code=$?\ndate +%s.%N >> {log}\nexit $code\n'
_DRIVERS_RPCS = re.compile(
    r"SUBMIT|JOB_INFO|JOB_USER_INFO|PARTITION_INFO|NODE_INFO|CANCEL|KILL|BUILD_INFO|LICENSE|STATS|PING|UPDATE_JOB"
)


@dataclass(frozen=True)
class Row:
    """What one `snakemake` cost; all but `jobs` a job, except `submit_seconds` and `wall_seconds`."""

    contestant: str
    jobs: int
    driver_cpu: float
    machine_cpu: float
    driver_rpcs: float
    all_rpcs: float
    submit_seconds: float
    """From the driver's start to the return of its last sbatch, less the time of a dry run of the same plan."""
    wall_seconds: float


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 jobs a row")
    parser.add_argument("--jobs", type=int, default=1000, metavar="N")
    parser.add_argument("--peer-jobs", type=int, default=0, metavar="N", help="fewer for the peer, whose jobs take seconds each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="kept for symmetry: nothing here is random")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="rows that were measured; benchmarks/out/overhead-JOBS")
    arguments = parser.parse_args()
    jobs = 40 if arguments.quick else arguments.jobs
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # takes the driver and the Slurm along
    kept = (arguments.folder or CHECKOUT / "benchmarks" / "out" / f"overhead-{jobs}") / "rows.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows = [Row(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    measured = {row.contestant for row in rows}
    with tempfile.TemporaryDirectory(prefix="overhead-", dir="/tmp") as scratch:
        for name, (flags, workflow) in CONTESTANTS.items():
            if name in measured:
                continue
            count = jobs if name.startswith("submitit") else min(jobs, arguments.peer_jobs or jobs)
            folder = Path(scratch) / str(len(rows))
            with temporary_slurm() as cluster:
                rows.append(measure(name, cluster, folder, workflow.format(jobs=count, cores=CORES_A_JOB), flags, count))
            with kept.open("a") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
            print(f"{name}: {count} jobs in {rows[-1].wall_seconds:.0f} s", file=sys.stderr, flush=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    heads = ("driver CPU s/job", "CPU s/job", "driver RPCs/job", "RPCs/job", "submit s", "wall s")
    print(f"{'':28} {'jobs':>5} " + " ".join(f"{head:>16}" for head in heads))
    for row in rows:
        values = (row.driver_cpu, row.machine_cpu, row.driver_rpcs, row.all_rpcs, row.submit_seconds, row.wall_seconds)
        print(f"{row.contestant:28} {row.jobs:5} " + " ".join(f"{value:16.3f}" for value in values))
    gaps = {name: successor_seconds(name, flags) for name, flags in (("submitit", OURS), ("slurm", THEIRS))}
    print(f"from a job's end to its successor's submission, median of {CHAIN_JOBS - 1}: "
          f"{', '.join(f'{name} {seconds:.1f} s' for name, seconds in gaps.items())}")  # fmt: skip
    missed = missed_aims({row.contestant: row for row in rows})
    if gaps["submitit"] > AIM_SUCCESSOR_SECONDS:
        missed.append(f"a successor waits for {gaps['submitit']:.1f} s")
    print(f"aims: CPU a job <= {AIM_CPU} x slurm's, driver RPCs a job <= {AIM_RPCS} x, submission < {AIM_SUBMIT_SECONDS} s, "
          f"a successor is submitted within {AIM_SUCCESSOR_SECONDS} s: "
          f"{'; '.join(missed) or 'met'}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"rows": [asdict(row) for row in rows], "successor": gaps, "missed": missed}, indent=1)
        )
    return 1 if missed else 0


def missed_aims(rows: dict[str, Row]) -> list[str]:
    """The aims that were missed, each kind of submission beside the peer's same kind."""
    missed = []
    for kind in ("arrays", "one by one", "20 unequal rules"):
        ours, theirs = rows[f"submitit, {kind}"], rows[f"slurm, {kind}"]
        if ours.machine_cpu > AIM_CPU * theirs.machine_cpu:
            missed.append(f"{kind}: CPU {ours.machine_cpu / theirs.machine_cpu:.2f} x")
        if ours.driver_rpcs > AIM_RPCS * theirs.driver_rpcs:
            missed.append(f"{kind}: driver RPCs {ours.driver_rpcs / theirs.driver_rpcs:.2f} x")
    if rows["submitit, arrays"].submit_seconds > AIM_SUBMIT_SECONDS:
        missed.append(f"submission took {rows['submitit, arrays'].submit_seconds:.1f} s")
    return missed


def measure(name: str, cluster: SlurmCluster, folder: Path, workflow: str, flags: list[str], jobs: int) -> Row:
    """Run one driver to its end."""
    folder.mkdir()
    (folder / "Snakefile").write_text(workflow)
    environment = driver_environment(cluster)
    path, log = folder / "bin", folder / "sbatch.log"
    path.mkdir()
    (path / "sbatch").write_text(RECORD.format(real=shutil.which("sbatch", path=environment["PATH"]), log=log))
    (path / "sbatch").chmod(0o755)
    environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    command = [*SNAKEMAKE, "--jobs", str(jobs), *flags]
    began = time.time()
    subprocess.run([*command, "-n"], cwd=folder, env=environment, check=True, capture_output=True)
    planning = time.time() - began
    cluster.ask("sdiag", "--reset")
    busy, began = busy_seconds(), time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command, folder, environment, name)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    rpcs = read_rpcs(cluster.ask("sdiag"))
    return Row(
        name,
        jobs,
        (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / jobs,
        (busy_seconds() - busy) / jobs,
        sum(count for kind, count in rpcs.items() if _DRIVERS_RPCS.search(kind)) / jobs,
        sum(rpcs.values()) / jobs,
        max(map(float, log.read_text().split())) - began - planning,
        ended - began,
    )


def successor_seconds(name: str, flags: list[str]) -> float:
    """Median seconds between a job's end and its successor's submission, both by Slurm's clock (whole seconds)."""
    with tempfile.TemporaryDirectory(prefix="overhead-", dir="/tmp") as scratch, temporary_slurm() as cluster:
        folder = Path(scratch)
        (folder / "Snakefile").write_text(CHAIN.format(jobs=CHAIN_JOBS))
        run([*SNAKEMAKE, "--jobs", "1", *flags], folder, driver_environment(cluster), name)
        jobs = re.findall(r"SubmitTime=(\S+).*?EndTime=(\S+)", cluster.ask("scontrol", "-o", "show", "job"))
        times = sorted(tuple(datetime.fromisoformat(moment).timestamp() for moment in job) for job in jobs)
        return statistics.median(after[0] - before[1] for before, after in itertools.pairwise(times))


@contextlib.contextmanager
def temporary_slurm() -> Iterator[SlurmCluster]:
    """A Slurm in a folder of its own, which goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # its sockets need a short path
    try:
        with running_cluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def driver_environment(cluster: SlurmCluster) -> dict[str, str]:
    """What a driver on the login node has in its environment."""
    return {**os.environ, **cluster.environment, "PYTHONPATH": str(CHECKOUT / "workflow")}


def run(command: list[str], folder: Path, environment: dict[str, str], name: str) -> None:
    """Run one driver that must end well."""
    answer = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{name} failed:\n{answer.stdout[-2000:]}{answer.stderr[-4000:]}")


def busy_seconds() -> float:
    """CPU seconds that this machine's processes have used since its start."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def read_rpcs(sdiag: str) -> dict[str, int]:
    """RPCs that the controller has served since the reset, by message type."""
    part = sdiag.split("Remote Procedure Call statistics by message type")[1].split("Remote Procedure Call statistics by user")[0]
    return {match[1]: int(match[2]) for match in re.finditer(r"^\s*(\w+)\s+\(\s*\d+\)\s+count:(\d+)", part, re.MULTILINE)}


if __name__ == "__main__":
    sys.exit(main())
