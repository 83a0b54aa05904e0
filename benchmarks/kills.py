"""A training run that is killed at a hundred random instants, against one that nothing happened to.

Two ranks with experts spread over them train a small MoE and save every second step. SIGKILL takes both ranks at an
instant drawn at random between their start and the end; the run is started again in the same folder, and so on; one that
comes through is compared with the undisturbed run, and the next begins. The peer of the second half is the same run with
every start in another layout. Ranks are forked from a server that has imported torch and Megatron, since each start from
nothing would spend its seconds on imports: what is killed is start-up behind the imports, steps, saves and validation.

Aims: in the same layout the curve, the validation and the checkpoint are the undisturbed run's to the last byte; in other
layouts the losses stay within AIM_NATS; in both every sample is trained once, in order; and nobody lends a hand.

    python benchmarks/kills.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import itertools
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from athanor.training.checkpoints import FINAL, SAVES
from athanor.training.curve import read_curve
from tests import ranks as warm
from tests.training import processes
from tests.training.faults import STARTED
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe
from tests.training.synthetic import LENGTH

AIM_NATS = 1e-5  # 40 steps from the first on; further on rounding grows (benchmarks/layouts.py)
STEPS = 40
SAMPLES_A_STEP = BATCH // LENGTH
RANKS = 2
KILLED = "-- killed --\n"
DOING = ("starting", "training", "saving", "ending")
LAYOUTS = ({"expert": 2}, {"pipeline": 2}, {"tensor": 2}, {"context": 2}, {})


@dataclass
class Row:
    """One way of starting again; `struck` counts what the ranks did when they were killed."""

    restarted: str
    kills: int = 0
    runs: int = 0  # that came to their end
    identical: int = 0  # of these, to the last byte
    apart: float = 0.0  # nats, the largest
    samples_wrong: int = 0  # runs in which a sample was left out or trained twice
    struck: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DOING, 0))


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 kills a row instead of 100 and 50")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fresh = _finish(Job(folder / "fresh", recipe(1)), 1)
        undisturbed = _job(folder / "undisturbed", fresh / FINAL, LAYOUTS[0])
        began = time.monotonic()
        _finish(undisturbed, RANKS)
        seconds = time.monotonic() - began
        same, other = Row("in the same layout"), Row("in another layout")
        counts = (10, 10) if arguments.quick else (100, 50)
        for row, layouts, kills in zip((same, other), (LAYOUTS[:1], LAYOUTS), counts, strict=True):
            _strike(row, folder, undisturbed, layouts, kills, seconds, chance)
    missed = report([same, other])
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in (same, other)]}, indent=1))
    return int(bool(missed))


def _strike(
    row: Row,
    folder: Path,
    undisturbed: Job,
    layouts: tuple[dict[str, int], ...],
    kills: int,
    seconds: float,
    chance: random.Random,
) -> None:
    """Kill and start again until `kills` are done and the last run has come to its end."""
    while row.kills < kills:
        job = replace(undisturbed, folder=folder / f"{row.restarted.replace(' ', '-')}-{row.runs}")
        starts = 0
        while True:
            job = _job(job.folder, job.start, layouts[starts % len(layouts)])
            starts += 1
            ranks = processes.start(job, RANKS)
            deadline = time.monotonic() + chance.uniform(0.05, seconds) if row.kills < kills else None
            try:
                if _ended_before(deadline, ranks):
                    break
                row.struck[_doing(job.folder)] += 1
                row.kills += 1
            finally:  # also of a benchmark that is interrupted
                processes.kill(ranks)
            with (job.folder / "rank-0.log").open("a") as log:
                log.write(KILLED)
        _compare(row, job, undisturbed)
        print(f"  {row.restarted}: {row.kills} kills, {row.runs} runs", file=sys.stderr, flush=True)


def _ended_before(deadline: float | None, ranks: list[warm.Rank]) -> bool:
    """Whether all ranks came to their end before the deadline. One that fails by itself ends the benchmark."""
    if deadline is None:
        codes: list[int | None] = list(processes.wait(ranks))
    else:
        while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
            time.sleep(0.002)
        codes = [rank.poll() for rank in ranks]
    if any(code not in (None, 0) for code in codes):
        sys.exit(f"ranks ended with {codes}:\n{ranks[0].log.read_text()}")
    return None not in codes


def _doing(folder: Path) -> str:
    """What the ranks are at, by what they have written."""
    if list((folder / SAVES).glob(".step-*.writing")):
        return "saving"
    if (folder / FINAL).exists():
        return "ending"
    return "training" if "continuing from" in (folder / "rank-0.log").read_text().rpartition(KILLED)[2] else "starting"


def _compare(row: Row, job: Job, undisturbed: Job) -> None:
    row.runs += 1
    row.identical += _result(job.folder) == _result(undisturbed.folder)
    points, expected = read_curve(job.folder / "curve.jsonl"), read_curve(undisturbed.folder / "curve.jsonl")
    row.apart = max([row.apart, *(abs(a.loss - b.loss) for a, b in zip(points, expected, strict=True))])
    row.samples_wrong += not _samples_right(job)


def _result(folder: Path) -> dict[str, bytes]:
    files = [folder / "curve.jsonl", folder / "validation.json", *(folder / FINAL).iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _samples_right(job: Job) -> bool:
    """Whether all ranks together read every sample, none beyond, and each start went through them without a gap."""
    everything: set[int] = set()
    for rank in range(RANKS):
        for start in (job.folder / f"samples-{rank}.txt").read_text().split(STARTED):
            steps = [int(line) // SAMPLES_A_STEP for line in start.split()]
            if any(after - before not in (0, 1) for before, after in itertools.pairwise(steps)):
                return False
            everything.update(int(line) for line in start.split())
    return everything == set(range(STEPS * SAMPLES_A_STEP))


def _job(folder: Path, start: Path | None, layout: dict[str, int]) -> Job:
    return Job(folder, recipe(RANKS, every_steps=2, parallel=layout), start, STEPS * BATCH, note_samples=True)


def _finish(job: Job, ranks: int) -> Path:
    codes = processes.run(job, ranks)
    if any(codes):
        sys.exit(f"{job.folder.name} ended with {codes}:\n{processes.log(job)}")
    return job.folder


def report(rows: list[Row]) -> bool:
    """The table on stdout; whether an aim is missed."""
    print("| started again | kills | while | runs | identical to the last byte | losses apart, nats | samples wrong |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for row in rows:
        struck = ", ".join(f"{what} {count}" for what, count in row.struck.items())
        cells = (row.restarted, row.kills, struck, row.runs, row.identical, f"{row.apart:.0e}", row.samples_wrong)
        print(f"| {' | '.join(map(str, cells))} |")
    same, other = rows
    print(f"in the same layout: {same.identical} of {same.runs} runs identical (aim: all)")
    print(f"in another layout: {other.apart:.1e} nats (aim {AIM_NATS:.0e})")
    wrong = same.samples_wrong + other.samples_wrong
    print(f"runs with a sample left out or read twice over: {wrong} (aim 0)")
    return same.identical < same.runs or other.apart > AIM_NATS or wrong > 0


if __name__ == "__main__":
    sys.exit(main())
