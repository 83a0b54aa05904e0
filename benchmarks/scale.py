"""Ten thousand jobs: what a dry run costs, and what a driver costs that submits, watches and adopts them.

Dry runs are of a plan of that many stages, beside bare Snakemake's of as many jobs. The drivers run a foreign workflow of
equal shard jobs on a Slurm of their own (tests/cluster; root, Debian's packages) whose partition is down, so that all
jobs wait: one driver submits them and watches, is killed, and the next one adopts them. Memory is the process's peak.

    python benchmarks/scale.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT)]

from benchmarks.overhead import EQUAL, OURS, driver_environment, read_rpcs, temporary_slurm  # noqa: E402 - found by the line above
from benchmarks.startup import BARE, planned, sized_project  # noqa: E402
from tests.cluster.slurm import SlurmCluster  # noqa: E402

SIZES, QUICK_SIZES = (1000, 10000), (100, 1000)
AIM_GROWTH = 1.25  # of time and memory, over that of the number of jobs
AIM_RATIO = 2.0  # of a dry run's time over bare Snakemake's
AIM_WATCH_RPCS = 1.5  # growth of the controller's RPCs while the jobs wait
WATCH_SECONDS = 60.0
PATIENCE_SECONDS = 1200.0
SNAKEMAKE = [sys.executable, "-m", "snakemake"]


@dataclass(frozen=True)
class DryRun:
    """One `snakemake -n`: seconds and peak MiB, ours and bare."""

    jobs: int
    seconds: float
    mebibytes: float
    bare_seconds: float
    bare_mebibytes: float


@dataclass(frozen=True)
class Drivers:
    """Two drivers of the same waiting jobs: the first submits and watches, the second adopts."""

    jobs: int
    submit_seconds: float
    """From the driver's start until the controller has all jobs."""
    watch_rpcs: float
    """The controller's RPCs a minute while the driver watches."""
    watch_cpu: float
    """Cores that the watching driver uses."""
    adopt_seconds: float
    """From the second driver's start until it has adopted the last job."""
    mebibytes: float
    """The larger peak of the two."""


def main() -> int:
    """Measure, print the tables and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZES} jobs instead of {SIZES}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="kept for symmetry: nothing here is random")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # takes the driver and the Slurm along
    sizes = QUICK_SIZES if arguments.quick else SIZES
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp") as scratch:
        plans = [dry_run(Path(scratch) / f"plan-{jobs}", jobs) for jobs in sizes]
        drivers = [drive(Path(scratch) / f"drive-{jobs}", jobs) for jobs in sizes]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'dry run of':>11} {'s':>8} {'bare s':>8} {'MiB':>8} {'bare MiB':>9}")
    for plan in plans:
        print(f"{plan.jobs:11} {plan.seconds:8.1f} {plan.bare_seconds:8.1f} {plan.mebibytes:8.0f} {plan.bare_mebibytes:9.0f}")
    print(f"{'jobs':>11} {'submit s':>8} {'RPCs/min':>8} {'cores':>8} {'adopt s':>9} {'MiB':>8}")
    for row in drivers:
        print(
            f"{row.jobs:11} {row.submit_seconds:8.1f} {row.watch_rpcs:8.1f} {row.watch_cpu:8.2f} {row.adopt_seconds:9.1f} "
            f"{row.mebibytes:8.0f}"
        )
    missed = missed_aims(plans, drivers)
    print(
        f"aims: time and memory grow at most {AIM_GROWTH} x as fast as the jobs, a dry run <= {AIM_RATIO} x bare, RPCs of a "
        f"watching driver grow at most {AIM_WATCH_RPCS} x: {'; '.join(missed) or 'met'}"
    )
    if arguments.json:
        rows = {"dry_runs": [asdict(row) for row in plans], "drivers": [asdict(row) for row in drivers]}
        arguments.json.write_text(json.dumps({**rows, "missed": missed}, indent=1))
    return 1 if missed else 0


def missed_aims(plans: list[DryRun], drivers: list[Drivers]) -> list[str]:
    """The aims that were missed."""
    growing: list[tuple[str, Callable[[DryRun], float] | Callable[[Drivers], float], list[DryRun] | list[Drivers]]] = [
        ("a dry run's time", lambda row: row.seconds, plans),
        ("a dry run's memory", lambda row: row.mebibytes, plans),
        ("submission", lambda row: row.submit_seconds, drivers),
        ("adoption", lambda row: row.adopt_seconds, drivers),
        ("a driver's memory", lambda row: row.mebibytes, drivers),
    ]
    missed = []
    for what, value, (small, large) in growing:
        growth = value(large) / value(small)  # type: ignore[arg-type]
        if growth > AIM_GROWTH * large.jobs / small.jobs:
            missed.append(f"{what} grew {growth:.1f} x")
    missed += [
        f"dry run of {plan.jobs}: {plan.seconds / plan.bare_seconds:.2f} x bare"
        for plan in plans
        if plan.seconds > AIM_RATIO * plan.bare_seconds
    ]
    if drivers[1].watch_rpcs > AIM_WATCH_RPCS * drivers[0].watch_rpcs:
        missed.append(f"RPCs while watching grew {drivers[1].watch_rpcs / drivers[0].watch_rpcs:.1f} x")
    return missed


def dry_run(folder: Path, jobs: int) -> DryRun:
    """Plan as many stages, and as many jobs of bare Snakemake."""
    project, bare = sized_project(folder / "project", jobs), folder / "bare"
    bare.mkdir()
    (bare / "Snakefile").write_text(BARE.format(jobs=jobs))
    (project / "config" / "sites" / "fresh.yaml").write_text(yaml.safe_dump({"store": str(folder / "none")}))
    environment = {**os.environ, "ATHANOR_PROJECT": str(project)}
    command = [*SNAKEMAKE, "-n", "--config", "site=fresh"]
    found = planned(command, project, environment)
    assert abs(found - jobs) <= 0.05 * jobs, f"{found} stages are planned, not {jobs}"
    ours = cost(command, project, environment)
    theirs = cost([*SNAKEMAKE, "-n", "--cores", "1", "--scheduler", "greedy"], bare, dict(os.environ))
    print(f"dry run of {jobs}: {ours[0]:.0f} s", file=sys.stderr, flush=True)
    return DryRun(found, *ours, *theirs)


def cost(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak MiB of one command that must end well."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode} in {folder}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def drive(folder: Path, jobs: int) -> Drivers:
    """Submit, watch, kill, adopt."""
    folder.mkdir()
    (folder / "Snakefile").write_text(EQUAL.format(jobs=jobs, cores=1))
    with temporary_slurm() as cluster:
        cluster.ask("scontrol", "update", "PartitionName=main", "State=DOWN")
        began = time.perf_counter()
        with driver(cluster, folder, "first.log", jobs) as first:
            wait(lambda: len(cluster.ask("squeue", "-h", "-r", "-o", "%i").split()) == jobs, first, "all jobs in the queue")
            submitted = time.perf_counter() - began
            wait(lambda: asleep(first), first, "the driver to have nothing to do but to watch")
            cluster.ask("sdiag", "--reset")
            busy = cpu_seconds(first)
            time.sleep(WATCH_SECONDS)
            rpcs, busy = sum(read_rpcs(cluster.ask("sdiag")).values()), cpu_seconds(first) - busy
            peak = peak_mebibytes(first)
        began = time.perf_counter()
        with driver(cluster, folder, "second.log", jobs) as second:
            log = folder / "second.log"
            wait(lambda: log.read_bytes().count(b"Adopted ") == jobs, second, "the adoption of all jobs")
            adopted = time.perf_counter() - began
            peak = max(peak, peak_mebibytes(second))
    print(f"{jobs} jobs: submitted in {submitted:.0f} s, adopted in {adopted:.0f} s", file=sys.stderr, flush=True)
    return Drivers(jobs, submitted, rpcs * 60 / WATCH_SECONDS, busy / WATCH_SECONDS, adopted, peak)


@contextlib.contextmanager
def driver(cluster: SlurmCluster, folder: Path, log: str, jobs: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Snakemake on the shards, killed in the end."""
    pace = ["--scheduler", "greedy", "--scheduler-subsample", "1000", "--max-jobs-per-timespan", "10000/1s"]
    command = [*SNAKEMAKE, *pace, "--nolock", "--jobs", str(jobs), *OURS]
    with (folder / log).open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=driver_environment(cluster), stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str) -> None:
    """Wait for something that the driver does."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None:
            raise SystemExit(f"the driver ended with exit code {process.returncode} before {what}")
        if time.monotonic() > end:
            process.kill()
            raise SystemExit(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
        time.sleep(0.5)


def asleep(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the driver has used less than half a core for some seconds."""
    before = cpu_seconds(process)
    time.sleep(5)
    return cpu_seconds(process) - before < 2.5


def cpu_seconds(process: "subprocess.Popen[bytes]") -> float:
    """What the driver and its finished children have used."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def peak_mebibytes(process: "subprocess.Popen[bytes]") -> float:
    """The driver's largest resident memory so far."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
