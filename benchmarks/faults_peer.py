"""The same faults, one at a time, on our executor and on snakemake-executor-plugin-slurm, driven as its documentation says.

Each strike is a campaign of its own: the hash chain of two ranks on two nodes (the peer's as an MPI job with requeue and
retries), hit once at a random instant. What a person would repair is repaired some seconds later, and a driver that ended
with an error is started again with the same command. A strike is survived when the chain ends within five minutes as an
undisturbed one does. Starts Slurms of its own with accounting (tests/cluster; root, Debian's packages).

    python benchmarks/faults_peer.py [--quick] [--strikes N] [--campaigns N] [--json FILE] [--seed N] [--folder DIR]
"""

import argparse
import hashlib
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
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "workflow")]

from benchmarks.faults import NODES, abandon, lay_out, remove  # noqa: E402 - found by the line above
from benchmarks.faulty.campaigns import KINDS, Campaign, Ended  # noqa: E402
from benchmarks.faulty.workloads import Chain, PeerChain  # noqa: E402
from tests.cluster.slurm import SlurmCluster, running_cluster  # noqa: E402

CONTESTANTS: dict[str, type[Chain]] = {"submitit": Chain, "slurm": PeerChain}
QUICK_KINDS = ("driver-kill", "walltime", "hang")


@dataclass(frozen=True)
class Strike:
    """What one fault did to one contestant."""

    contestant: str
    kind: str
    finished: bool
    """Within five minutes after the fault."""
    right: bool
    """It ended as an undisturbed one, nothing ran twice, nothing was left."""
    restarts: int
    seconds: float
    """From the fault to progress that the fault could have prevented."""
    problems: list[str]


class Work:
    """The strikes to come, shared by the Slurms, and those that were made: records in the folder, so that it goes on."""

    def __init__(self, folder: Path, strikes: int, kinds: tuple[str, ...]) -> None:
        self.lock, self.path = threading.Lock(), folder / "strikes.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.done = [Strike(**json.loads(line)) for line in lines]
        wanted = [(contestant, kind) for _ in range(strikes) for kind in kinds for contestant in CONTESTANTS]
        for strike in self.done:
            if (strike.contestant, strike.kind) in wanted:
                wanted.remove((strike.contestant, strike.kind))
        self.left = deque(wanted)
        self.clusters: list[SlurmCluster] = []

    def add(self, strike: Strike) -> None:
        """Keep what came of one."""
        with self.lock:
            self.done.append(strike)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(strike)) + "\n")
            told = "; ".join(strike.problems) or f"{strike.seconds:.0f} s"
            print(f"{len(self.left)} left; {strike.contestant}, {strike.kind}: {told}", file=sys.stderr, flush=True)


def main() -> int:
    """Strike, print the table and the aim; exit 1 where it is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"one strike each of {', '.join(QUICK_KINDS)}")
    parser.add_argument("--strikes", type=int, default=3, metavar="N", help="a kind and contestant")
    parser.add_argument("--campaigns", type=int, default=4, metavar="N", help="how many run at a time, each on its own Slurm")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="records and campaigns; benchmarks/out/peer-SEED")
    arguments = parser.parse_args()
    folder = arguments.folder or CHECKOUT / "benchmarks" / "out" / f"peer-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(folder, 1, QUICK_KINDS) if arguments.quick else Work(folder, arguments.strikes, tuple(sorted(KINDS)))
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: abandon(work.clusters, folder, signum))
    with ThreadPoolExecutor(arguments.campaigns) as pool:
        numbers = range(arguments.campaigns)
        for done in [pool.submit(strike_on, work, folder, random.Random(f"{arguments.seed}/{n}")) for n in numbers]:
            done.result()
    print_table(work.done)
    missed = [f"{s.kind}: {'; '.join(s.problems)}" for s in work.done if s.contestant == "submitit" and not s.right]
    print(f"aim: our executor survives every strike and ends as an undisturbed one: {' | '.join(missed) or 'met'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"strikes": [asdict(s) for s in work.done], "missed": missed}, indent=1))
    return 1 if missed else 0


def strike_on(work: Work, folder: Path, rng: random.Random) -> None:
    """Make strikes until none is left, each on a fresh Slurm: what a fault leaves of one must not help or harm the next."""
    while True:
        with work.lock:
            if not work.left:
                return
            contestant, kind = work.left.popleft()
            number = len(work.left)
        scratch = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        try:
            with running_cluster(scratch, NODES, accounting=True) as cluster:
                work.clusters.append(cluster)
                work.add(strike(contestant, kind, folder / f"{contestant}-{kind}-{number}", cluster, rng))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def strike(contestant: str, kind: str, folder: Path, cluster: SlurmCluster, rng: random.Random) -> Strike:
    """Run one campaign and hit it once."""
    shutil.rmtree(folder, ignore_errors=True)
    workload = CONTESTANTS[contestant](folder, cluster)
    lay_out(workload)
    once = iter([True])
    campaign = Campaign(workload, rng, iter([kind]), lambda: next(once, False))
    try:
        ended = campaign.run(undisturbed())
    except TimeoutError:
        ended = campaign.ended
    if not ended.problems:
        remove(workload)
    return judged(contestant, kind, ended, campaign.restarts)


def judged(contestant: str, kind: str, ended: Ended, restarts: int) -> Strike:
    """The row of one campaign."""
    record = ended.records[0] if ended.records else None
    finished = record is not None and record.survived and "did not end" not in ended.problems
    right = finished and not ended.problems
    return Strike(contestant, kind, finished, right, restarts, record.seconds if record else 0.0, ended.problems)


def undisturbed() -> dict[str, str]:
    """The results of a chain that nothing happens to, worked out here: contestants must not be each other's reference."""
    states = [f"rank {rank}" for rank in range(Chain.ranks)]
    for step in range(Chain.steps):
        states = [hashlib.sha256(f"{state}{step}".encode()).hexdigest() for state in states]
    return dict.fromkeys(("first.result", "second.result"), " ".join(states) + "\n")


def print_table(strikes: list[Strike]) -> None:
    """One row a kind, the contestants beside each other."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    heads = [f"{name} {what}" for name in CONTESTANTS for what in ("finished", "right", "restarts", "median s")]
    print(f"{'fault':24} {'each':>4} " + " ".join(f"{head:>17}" for head in heads))
    for kind in sorted({strike.kind for strike in strikes}):
        cells, count = [], 0
        for name in CONTESTANTS:
            rows = [strike for strike in strikes if strike.kind == kind and strike.contestant == name]
            count = max(count, len(rows))
            seconds = [row.seconds for row in rows if row.finished]
            cells += [str(sum(r.finished for r in rows)), str(sum(r.right for r in rows)), str(sum(r.restarts for r in rows))]
            cells.append(f"{statistics.median(seconds):.0f}" if seconds else "did not finish")
        print(f"{kind:24} {count:4} " + " ".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
