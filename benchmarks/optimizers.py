"""Update rules on one small dense model and the same tokens: what each keeps, takes, and learns at its best rate.

Every rule trains through the DeepSpeed backend's own loop (ZeRO 0, float32, one process with one thread, one micro-batch a step),
and differs in nothing but the rule, its own usual settings (SETTINGS) and its rate. The rate is tuned the same way for each, with
one seed: a grid of GRID_STEP, extended while the best lies on an edge, up to the recipe's highest rate. Then SEEDS other seeds
train at the best. Beside them what an untrained model and unigrams say. Peak memory is the process's, above what it had before
the model, while it trains, measures and saves.
Aims: AdaLomo keeps at most AIM_STATE of AdamW's state; every rule says more than unigrams.

    python benchmarks/optimizers.py [--quick] [--json FILE] [--seed N] [--tuned FILE]
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from optimizers_run import FAILED, LENGTH, WINDOWS, Found, Run, parameters, read_corpus, train

from athanor.artifacts.strict_json import finite
from athanor.recipe.schema.choices import OptimizerName
from athanor.recipe.schema.training import Optimizer

AIM_STATE, SEEDS, STEPS = 0.1, 3, 200
CORPUS = "corpus.npz"
GRID_STEP, HIGHEST, LOWEST = 10**0.5, 1.0, 1e-6
GRID = tuple(10**exponent for exponent in (-3.5, -3.0, -2.5, -2.0, -1.5))
# As the papers have them, where the recipe's own are not those; what else a rule knows is the recipe's default.
SETTINGS = {
    OptimizerName.ADAMW: Optimizer(),
    OptimizerName.LION: Optimizer(beta1=0.9, beta2=0.99),
    OptimizerName.ADAN: Optimizer(beta1=0.98, beta2=0.92, beta3=0.99),
    OptimizerName.SOPHIA: Optimizer(beta1=0.965, beta2=0.99, rho=0.04, estimate_every_steps=10),
    OptimizerName.MUON: Optimizer(momentum=0.95),
    OptimizerName.LOMO: Optimizer(weight_decay=0.0),
    OptimizerName.ADALOMO: Optimizer(),
}
PROCESSES = multiprocessing.get_context("forkserver")
LIBRARIES = ["athanor.training.deepspeed.language", "athanor.training.deepspeed.loop", "transformers.models.qwen3.modeling_qwen3"]
PROCESSES.set_forkserver_preload(LIBRARIES)


@dataclass(frozen=True)
class Tuning:
    """Of one rule, with one seed."""

    rates: dict[str, float]  # loss by rate
    rate: float  # the best
    edge: str  # where that is the last that was allowed


@dataclass(frozen=True)
class Row:
    """One rule."""

    name: str
    tuning: Tuning
    seeds: list[Found]

    @property
    def losses(self) -> list[float]:
        """Of all seeds."""
        return [found.loss for found in self.seeds]

    @property
    def state(self) -> float:
        """Bytes a parameter."""
        return self.seeds[0].bytes_a_parameter


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 steps, three rates, one seed: whether it runs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="of tuning; the next ones are measured")
    parser.add_argument("--tuned", type=Path, metavar="FILE", help="take the rates that an earlier --json has, and measure alone")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    steps, grid, count = (60, GRID[1:4], 1) if arguments.quick else (STEPS, GRID, SEEDS)
    seeds = range(arguments.seed + 1, arguments.seed + 1 + count)
    began, rows, tuned = time.monotonic(), [], _tuned(arguments.tuned)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = read_corpus()
        corpus.save(Path(scratch) / CORPUS)
        bench = Bench(Path(scratch), steps)
        for name in SETTINGS:
            tuning = tuned.get(name) or bench.tune(name, grid, arguments.seed)
            rows.append(bench.row(name, tuning, seeds))
            print(f"{name}: {time.monotonic() - began:.0f} s so far", file=sys.stderr, flush=True)
    naive = {"untrained": statistics.fmean(found.untrained for found in rows[0].seeds), "unigrams": corpus.unigrams()}
    missed = tell(rows, naive, f"{steps} steps of {WINDOWS * LENGTH} tokens, {count} seeds, {parameters():,} parameters")
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        found = {"machine": machine, "steps": steps, "naive": naive, "rows": [asdict(row) for row in rows], "missed": missed}
        arguments.json.write_text(json.dumps(finite(found), indent=1))
    return 1 if missed else 0


class Bench:
    """Trainings, each in a process of its own, one after the other."""

    def __init__(self, scratch: Path, steps: int) -> None:
        self._scratch, self._steps, self._made = scratch, steps, 0

    def tune(self, name: OptimizerName, grid: Sequence[float], seed: int) -> Tuning:
        """The best rate, and what the others came to."""
        losses = {rate: self._train(name, rate, seed).loss for rate in grid}
        while (best := min(losses, key=losses.__getitem__)) in (min(losses), max(losses)):
            rate = best / GRID_STEP if best == min(losses) else best * GRID_STEP
            if not LOWEST <= rate <= HIGHEST * 1.001:
                break
            losses[rate] = self._train(name, rate, seed).loss
        edge = {min(losses): "lowest", max(losses): "highest"}.get(best, "")
        return Tuning({f"{rate:.2g}": losses[rate] for rate in sorted(losses)}, best, edge)

    def row(self, name: OptimizerName, tuning: Tuning, seeds: Sequence[int]) -> Row:
        """Measure at the best rate."""
        return Row(name.value, tuning, [self._train(name, tuning.rate, seed) for seed in seeds])

    def _train(self, name: OptimizerName, rate: float, seed: int) -> Found:
        self._made += 1
        folder = self._scratch / f"{self._made:03d}"
        folder.mkdir()
        settings = Optimizer(**{**vars(SETTINGS[name]), "name": name})
        process = PROCESSES.Process(
            target=_in_process, args=(Run(settings, rate, seed, self._steps, self._scratch / CORPUS, folder),)
        )
        process.start()
        process.join()
        if not (result := folder / "found.json").is_file():
            raise SystemExit(
                f"{name} at {rate:.2g} ended with {process.exitcode}; it said:\n{(folder / 'log').read_text()[-2000:]}"
            )
        found = Found(**json.loads(result.read_text()))
        print(f"  {name} at {rate:.2g}, seed {seed}: {found.loss:.4f}", file=sys.stderr, flush=True)
        return found


def _in_process(run: Run) -> None:
    with (run.folder / "log").open("w") as log, redirect_stdout(log):
        train(run)


def tell(rows: Sequence[Row], naive: dict[str, float], what: str) -> list[str]:
    """Print the tables; returns the aims that were missed."""
    print(f"{what}; losses in nats a held-out token\n")
    print("| rule | state, bytes a parameter | peak, MiB | tokens/core-s | best rate | loss, mean and range |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: statistics.fmean(row.losses)):
        peak = statistics.median(found.peak_bytes for found in row.seeds) / 2**20
        speed = statistics.median(found.tokens_per_core_second for found in row.seeds)
        rate = f"{row.tuning.rate:.2g}{f' ({row.tuning.edge})' if row.tuning.edge else ''}"
        loss = f"{statistics.fmean(row.losses):.3f} ({min(row.losses):.3f} to {max(row.losses):.3f})"
        print(f"| {row.name} | {row.state:.2f} | {peak:.1f} | {speed:,.0f} | {rate} | {loss} |")
    for name, loss in naive.items():
        print(f"| {name} | | | | | {loss:.3f} |")
    rates = sorted({rate for row in rows for rate in row.tuning.rates}, key=float)
    print(f"\n| tuning: loss by rate | {' | '.join(rates)} |\n|---|{'---:|' * len(rates)}")
    for row in rows:
        print(f"| {row.name} | {' | '.join(_cell(row.tuning.rates.get(rate, math.nan)) for rate in rates)} |")
    by_name = {row.name: row for row in rows}
    share = by_name["adalomo"].state / by_name["adamw"].state
    weak = [row.name for row in rows if max(row.losses) >= naive["unigrams"]]
    print(f"\nAdaLomo keeps {share:.3f} of AdamW's state (aim: at most {AIM_STATE}: {'met' if share <= AIM_STATE else 'MISSED'})")
    print(f"every rule below unigrams in every seed: {'MISSED by ' + ', '.join(weak) if weak else 'met'}")
    return [*(["state"] if share > AIM_STATE else []), *(["unigrams"] if weak else [])]


def _tuned(path: Path | None) -> dict[str, Tuning]:
    """By rule."""
    rows = json.loads(path.read_text())["rows"] if path else []
    return {row["name"]: Tuning(**{**row["tuning"], "rates": _losses(row["tuning"]["rates"])}) for row in rows}


def _losses(rates: dict[str, float | None]) -> dict[str, float]:
    """A training that ended without numbers is null in JSON."""
    return {rate: FAILED if loss is None else loss for rate, loss in rates.items()}


def _cell(loss: float) -> str:
    return "" if math.isnan(loss) else "diverged" if loss == FAILED else f"{loss:.3f}"


if __name__ == "__main__":
    sys.exit(main())
