"""Nothing lost, nothing run twice: campaigns on a real Slurm under random faults, compared with undisturbed ones.

Starts Slurms of its own (tests/cluster; root, Debian's packages), one for each campaign that runs at a time. Campaigns: a
hash chain of two ranks on two nodes, an array of shards, the real pretraining. Faults of every kind in turn hit them at
random instants; what a user would repair is repaired some seconds later, a driver that ended with an error is started
again with the same command. Every campaign must end as the undisturbed one did, with no job twice at once, no finished work
redone, no process left. Records lie in --folder: started again, it goes on where it was stopped.

    python benchmarks/faults.py [--quick] [--faults N] [--campaigns N] [--json FILE] [--seed N] [--folder DIR]
"""

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "workflow")]

from benchmarks.faulty.campaigns import KINDS, Campaign, Ended, Record  # noqa: E402 - found by the line above
from benchmarks.faulty.workloads import WORKLOADS, Chain, Workload  # noqa: E402
from tests.cluster.faults import FullDisk  # noqa: E402
from tests.cluster.slurm import SlurmCluster, running_cluster  # noqa: E402

NODES = ("node1", "node2")
PRETRAIN_SHARE = 0.25
DISK_MEGABYTES = 64
SCRIPT = ("node-death", "preempt", "walltime", "walltime", "driver-kill", "driver-kill")  # of workload lifecycle


class Plan:
    """What is left to do, shared by the campaigns that run at a time, and its record on the disk."""

    def __init__(self, folder: Path, faults: int, seed: int) -> None:
        self.path, self.faults, self.seed = folder / "records.jsonl", faults, seed
        self.lock, self.open = threading.Lock(), 0
        self.clusters: list[SlurmCluster] = []
        self.running: dict[int, str] = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.campaigns = [Ended([Record(**r) for r in c["records"]], c["problems"]) for c in map(json.loads, lines)]

    @property
    def records(self) -> list[Record]:
        """Every fault of the campaigns that have ended."""
        return [record for campaign in self.campaigns for record in campaign.records]

    def may_break(self) -> bool:
        """Take one fault from what is left; False when none is."""
        with self.lock:
            if len(self.records) + self.open >= self.faults:
                return False
            self.open += 1
            return True

    def next_workload(self, worker: int) -> str:
        """Pretraining until it has its share, one at a time, for it computes; the others in turn."""
        with self.lock:
            self.running.pop(worker, None)
            pretrained = sum(record.workload == "pretraining" for record in self.records)
            if "pretrain" not in self.running.values() and pretrained < PRETRAIN_SHARE * max(len(self.records), 1):
                name = "pretrain"
            else:
                name = ("chain", "chain", "shards")[len(self.campaigns) % 3]
            self.running[worker] = name
            return name

    def add(self, ended: Ended) -> None:
        """Keep what came of a campaign."""
        with self.lock:
            self.open -= len(ended.records)
            self.campaigns.append(ended)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(ended)) + "\n")


def main() -> int:
    """Break, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 faults on two campaigns at a time")
    parser.add_argument("--faults", type=int, default=300, metavar="N")
    parser.add_argument("--campaigns", type=int, default=4, metavar="N", help="how many run at a time, each on its own Slurm")
    parser.add_argument("--workload", choices=list(WORKLOADS), help="only this one; lifecycle: a fixed row of six faults")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="records and broken campaigns; benchmarks/out/faults-SEED")
    arguments = parser.parse_args()
    folder = arguments.folder or CHECKOUT / "benchmarks" / "out" / f"faults-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    faults, at_once = (12, 2) if arguments.quick else (arguments.faults, arguments.campaigns)
    if arguments.workload == "lifecycle":
        faults, at_once = len(SCRIPT), 1
    plan = Plan(folder, faults, arguments.seed)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: abandon(plan.clusters, folder, number))
    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(work, plan, folder, number, arguments.workload) for number in range(at_once)]:
            done.result()
    print_table(plan, time.monotonic() - began)
    missed = [problem for campaign in plan.campaigns for problem in campaign.problems]
    print(f"aims: every fault survived, every result as undisturbed, nothing twice, nothing left: {'; '.join(missed) or 'met'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"records": [asdict(r) for r in plan.records], "missed": missed}, indent=1))
    return 1 if missed else 0


def abandon(clusters: list[SlurmCluster], folder: Path, number: int) -> None:
    """Stop every driver and Slurm at once; the records of the campaigns that have ended are kept."""
    _kill_drivers(folder)
    for cluster in clusters:
        cluster.stop()
        shutil.rmtree(cluster.layout.folder, ignore_errors=True)
    _kill_drivers(folder)  # the campaigns' threads have started those that had ended again
    os._exit(128 + number)


def _kill_drivers(folder: Path) -> None:
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if "snakemake" in (process.info["cmdline"] or []) and str(process.info["cwd"]).startswith(str(folder.resolve())):
            process.kill()


def work(plan: Plan, folder: Path, number: int, only: str | None) -> None:
    """Run campaigns one after the other on one Slurm until the faults are used up."""
    scratch = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    try:
        with running_cluster(scratch, NODES, accounting=number == 0) as cluster:
            plan.clusters.append(cluster)
            rng = random.Random(f"{plan.seed}/{number}/{len(plan.campaigns)}")
            order = itertools.cycle(SCRIPT) if only == "lifecycle" else kinds(rng)
            while len(plan.records) + plan.open < plan.faults:
                name = only or plan.next_workload(number)
                count = f"{number}-{len(plan.campaigns)}-{time.time_ns() // 10**9}"
                workload = WORKLOADS[name](folder / f"{name}-{count}", cluster)
                reference = undisturbed(plan, folder, name, cluster)
                lay_out(workload)
                ended = Campaign(workload, rng, order, plan.may_break).run(reference)
                plan.add(ended)
                told = "; ".join(ended.problems) or "fine"
                print(
                    f"{len(plan.records)} of {plan.faults} faults; {name}: {len(ended.records)}, {told}",
                    file=sys.stderr,
                    flush=True,
                )
                if not ended.problems:
                    remove(workload)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def kinds(rng: random.Random) -> Iterator[str]:
    """Every kind once, in random order, again and again: none is left out by chance."""
    names = sorted(KINDS)
    while True:
        rng.shuffle(names)
        yield from names


_references = threading.Lock()


def undisturbed(plan: Plan, folder: Path, name: str, cluster: SlurmCluster) -> dict[str, str]:
    """The results of a campaign that nothing happens to; run once and kept."""
    kept = folder / f"reference-{name}.json"
    with _references:
        if not kept.exists():
            workload = WORKLOADS[name](folder / f"undisturbed-{name}", cluster)
            shutil.rmtree(workload.folder, ignore_errors=True)
            workload.folder.mkdir()
            workload.lay_out()
            if code := workload.start_driver().wait():
                raise SystemExit(f"undisturbed {name} ended with exit code {code}; see {workload.folder}/driver.log")
            kept.write_text(json.dumps(workload.results()))
        found: dict[str, str] = json.loads(kept.read_text())
        return found


def lay_out(workload: Workload) -> None:
    """Make the campaign's folder, on a small file system of its own where that one is to be filled."""
    if isinstance(workload, Chain):
        FullDisk(workload.cluster, workload.folder, megabytes=DISK_MEGABYTES).inflict()
    else:
        workload.folder.mkdir()
    workload.lay_out()


def remove(workload: Workload) -> None:
    """Delete a campaign's folder; a mounted one goes with its cluster."""
    for path in workload.folder.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def print_table(plan: Plan, seconds: float) -> None:
    """One row a kind, the rarest survivors first."""
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}, seed {plan.seed}")
    print(f"{len(plan.campaigns)} campaigns, {len(plan.records)} faults, {seconds:.0f} s in this run")
    print(f"{'fault':24} {'injected':>8} {'survived':>8} {'on pretraining':>14} {'median s':>9} {'driver restarts':>15}")
    for kind in sorted({record.kind for record in plan.records}):
        rows = [record for record in plan.records if record.kind == kind]
        print(
            f"{kind:24} {len(rows):8} {sum(r.survived for r in rows):8} {sum(r.workload == 'pretraining' for r in rows):14} "
            f"{statistics.median(r.seconds for r in rows):9.1f} {sum(r.restarts for r in rows):15}"
        )


if __name__ == "__main__":
    sys.exit(main())
