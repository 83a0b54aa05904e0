"""Every layout over ranks against one rank: how far its losses are, and how fast it is on this machine's CPU.

A small MoE (4 layers, hidden 128, 8 experts, 2 of them a token) trains ten steps on one rank; from that checkpoint, with
its optimizer, one rank and every layout train on. Ranks share this machine's cores, so tokens/s say what a layout costs
in communication, not what it gains on a cluster.

Rounding grows: one expert chosen otherwise at a near-tie, and two runs part. How far is told by controls, one rank each:
micro-batches of other sizes, where nothing but the order of sums differs, and learning rates changed by one millionth and by
ten, which in ten steps move losses as little and as much as layouts do. Aims: losses within AIM_FIRST of one rank's in the
first ten steps; later no layout further from it than AIM_SPREAD times the furthest control.

    python benchmarks/layouts.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from athanor.recipe.schema.recipe import Recipe
from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.layouts import LAYOUTS, Sizes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

AIM_FIRST = 1e-5  # nats
AIM_SPREAD = 2.0  # times what the controls differ by
FIRST_STEPS = 10
MODEL = {"num_layers": 4, "hidden_size": 128, "head_dim": 32, "num_experts": 8, "expert_ffn_size": 256}
ALONE = Sizes(1, {}, "")
CONTROLS = {
    f"control: one rank, micro-batches of {size}": Sizes(
        1, {"micro_batch_size": size}, "gradients are summed by micro-batch first"
    )
    for size in (1, 4, 8)
}
NUDGES = {f"control: one rank, learning rate {nudge:+.0e} of itself": nudge for nudge in (1e-6, -1e-6, 1e-5, -1e-5)}


@dataclass(frozen=True)
class Row:
    """One layout; differences from one rank are in nats."""

    layout: str
    ranks: int
    first: float  # the largest in the first steps
    largest: float  # of all steps
    mean: float  # of the losses of the last third
    tokens_per_second: float  # median over the steps
    rounding: str


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 steps instead of 60")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    steps = 20 if arguments.quick else 60
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), arguments.seed, steps)
    report(rows, steps)
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))
    return int(_first(rows) > AIM_FIRST or _spread(rows) > AIM_SPREAD)


def measure(folder: Path, seed: int, steps: int) -> list[Row]:
    """The controls and all layouts, one after the other."""
    fresh = _train(Job(folder / "fresh", _recipe(ALONE, seed)), 1)
    begun = _train(Job(folder / "begun", _recipe(ALONE, seed), fresh / FINAL, 10 * BATCH), 1)
    end = (10 + steps) * BATCH
    expected = _losses(_train(Job(folder / "alone", _recipe(ALONE, seed), begun / FINAL, end), 1))
    rows = [Row("one rank", 1, 0.0, 0.0, 0.0, _speed(folder / "alone"), "")]
    nudged = dict.fromkeys(NUDGES, Sizes(1, {}, "nowhere"))
    for number, (name, sizes) in enumerate({**CONTROLS, **nudged, **LAYOUTS}.items()):
        print(f"  {name} …", file=sys.stderr, flush=True)
        job = Job(folder / f"layout-{number}", _recipe(sizes, seed, NUDGES.get(name, 0.0)), begun / FINAL, end)
        run = _train(job, sizes.ranks)
        apart = [a - b for a, b in zip(_losses(run), expected, strict=True)]
        mean = statistics.mean(apart[-(steps // 3) :])
        largest = max(map(abs, apart))
        rows.append(Row(name, sizes.ranks, max(map(abs, apart[:FIRST_STEPS])), largest, mean, _speed(run), sizes.why))
    return rows


def _first(rows: list[Row]) -> float:
    return max(row.first for row in rows if row.layout in LAYOUTS)


def _spread(rows: list[Row]) -> float:
    """How far the furthest layout is from one rank, in times of the furthest control."""
    layouts, controls = ([row.largest for row in rows if row.layout in some] for some in (LAYOUTS, {**CONTROLS, **NUDGES}))
    return max(layouts) / max(controls)


def report(rows: list[Row], steps: int) -> None:
    """The table on stdout."""
    print(
        f"| layout | ranks | first {FIRST_STEPS} steps | all {steps} | mean of last {steps // 3} | tokens/s | rounding differs |"
    )
    print("|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        print(
            f"| {row.layout} | {row.ranks} | {row.first:.0e} | {row.largest:.0e} | {row.mean:+.0e} "
            f"| {row.tokens_per_second:,.0f} | {row.rounding} |"
        )
    print(f"largest difference in the first {FIRST_STEPS} steps: {_first(rows):.1e} nats (aim {AIM_FIRST:.0e})")
    print(f"largest difference in all {steps} steps: {_spread(rows):.1f} times the controls' (aim {AIM_SPREAD:.0f})")


def _recipe(sizes: Sizes, seed: int, nudge: float = 0.0) -> Recipe:
    base = recipe(sizes.ranks, model=MODEL, parallel={"micro_batch_size": 2, **sizes.parallel}, every_steps=1000)
    return replace(base, seed=seed, pretrain=replace(base.pretrain, lr=base.pretrain.lr * (1 + nudge)))


def _train(job: Job, ranks: int) -> Path:
    codes = processes.run(job, ranks)
    if any(codes):
        sys.exit(f"{job.folder.name} ended with {codes}:\n{processes.log(job)}")
    return job.folder


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def _speed(folder: Path) -> float:
    [spool] = (folder / "tracking").iterdir()
    points = [json.loads(line) for line in spool.read_text().splitlines()]
    return statistics.median(p["payload"]["tokens_per_second"] for p in points if "tokens_per_second" in p["payload"])


if __name__ == "__main__":
    sys.exit(main())
