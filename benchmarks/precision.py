"""Loss curves of BF16 and of emulated FP8 beside FP32's: do the numerics of the FP8 recipe train as BF16 does?

A small MoE (2 layers, hidden 128, 4 experts, 2 of them a token) learns a language in which pairs of tokens decide the next, from
the same weights and samples in FP32, BF16, `fp8_emulated`, and a negative control: FP4 numbers (e2m1) with one scale a tensor.
Several seeds, each with weights and a language of its own. Aim: FP8's curve, smoothed as DeepSeek-V3's (arXiv 2412.19437,
appendix B.1: 0.25 % over 1T tokens), within AIM of BF16's on average over the last quarter of the steps and over the seeds; the
control must miss it, or the measure could not fail.

    python benchmarks/precision.py [--quick] [--json FILE] [--seed N] [--plot FILE.svg]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from training import Contestant, run
from training_rank import INITIALIZE, OURS, Order, PairSamples

from athanor.models.fp8_emulated import E2M1, BlockScaling
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Model, Parallel, Pretrain

AIM = 0.01  # of the loss
SMOOTHING = 0.9  # of the exponential moving average
LENGTH, BATCH_TOKENS = 32, 512
WHOLE_TENSOR = 2**30  # a tile larger than any matrix
MODEL = Model(
    num_layers=2, hidden_size=128, num_attention_heads=4, num_query_groups=2, head_dim=32, num_experts=4, expert_ffn_size=128,
    vocab_size=320, max_sequence_length=LENGTH, aux_loss_coefficient=1e-3,
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to compute the same training."""

    name: str
    precision: Precision
    scaling: BlockScaling | None = None


FP32, BF16 = Way("fp32", Precision.FP32), Way("bf16", Precision.BF16)
FP8 = Way("fp8_emulated", Precision.FP8_EMULATED)
CONTROL = Way("control: FP4", Precision.FP8_EMULATED, BlockScaling(numbers=E2M1, tile=WHOLE_TENSOR))
WAYS = (FP32, BF16, FP8, CONTROL)
Curves = dict[str, list[list[float]]]  # by way, then by seed: loss of every step in nats a token


@dataclass(frozen=True)
class Row:
    """One way, over the last quarter of the steps; means over the seeds, and the largest of them."""

    name: str
    final_loss: float  # nats a token
    from_fp32: float  # mean |difference| of the steps' losses, nats
    from_fp32_most: float
    from_bf16: float  # mean |difference| of the smoothed curves, as a share of BF16's
    from_bf16_most: float


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="120 steps and two seeds instead of 300 and three")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the loss curves, as .png or .svg")
    arguments = parser.parse_args()
    steps, count = (120, 2) if arguments.quick else (300, 3)
    with tempfile.TemporaryDirectory() as scratch:
        curves = measure(Path(scratch), steps, range(arguments.seed, arguments.seed + count))
    rows, spread = [summary(way.name, curves) for way in WAYS], spread_of_seeds(curves[FP32.name])
    missed = report(rows, spread, f"{steps} steps of {BATCH_TOKENS} tokens, {count} seeds from {arguments.seed}")
    if arguments.json:
        result = {"rows": [asdict(row) for row in rows], "spread_of_seeds": spread, "curves": curves, "missed": missed}
        arguments.json.write_text(json.dumps(result, indent=1))
    if arguments.plot:
        draw(curves, arguments.plot)
    return 1 if missed else 0


def recipe_for(precision: Precision, steps: int, seed: int) -> Recipe:
    """One rank, with a schedule that fits `steps`."""
    budget = steps * BATCH_TOKENS
    return Recipe(
        name="precision",
        seed=seed,
        model=MODEL,
        pretrain=Pretrain(
            token_budget=budget, sequence_length=LENGTH, batch_tokens=BATCH_TOKENS, warmup_tokens=budget // 15,
            decay_tokens=budget // 4, lr=4e-3, min_lr=4e-4, precision=precision, log_every_steps=1,
            validate_every_tokens=10**12, parallel=Parallel(micro_batch_size=BATCH_TOKENS // LENGTH),
        ),
    )  # fmt: skip


def measure(scratch: Path, steps: int, seeds: Sequence[int]) -> Curves:
    """All ways with all seeds, one a core at a time."""
    alone = Contestant("", OURS, 1, 1)

    def fresh(seed: int) -> None:
        recipe, folder = recipe_for(Precision.FP32, steps, seed), scratch / f"weights-{seed}"
        run(alone, Order(INITIALIZE, recipe, folder, folder, steps, seed))

    def train(way: Way, seed: int) -> list[float]:
        recipe, folder = recipe_for(way.precision, steps, seed), scratch / f"{way.name}-{seed}"
        run(alone, Order(OURS, recipe, folder, scratch / f"weights-{seed}", steps, seed, PairSamples, way.scaling))
        losses: list[float] = json.loads((folder / "result.json").read_text())["losses"]
        print(f"  {way.name}, seed {seed}: final loss {statistics.mean(losses[-steps // 4 :]):.4f}", file=sys.stderr, flush=True)
        return losses

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fresh, seeds))
        running = {way.name: [pool.submit(train, way, seed) for seed in seeds] for way in WAYS}
        return {name: [future.result() for future in futures] for name, futures in running.items()}


def summary(name: str, curves: Curves) -> Row:
    """What a way's curves are beside FP32's and BF16's of the same seeds."""
    to_fp32 = [_apart(a, b) for a, b in zip(curves[name], curves[FP32.name], strict=True)]
    pairs = [(smoothed(a), smoothed(b)) for a, b in zip(curves[name], curves[BF16.name], strict=True)]
    to_bf16 = [_apart(a, b) / statistics.mean(_last_quarter(b)) for a, b in pairs]
    final = statistics.mean(statistics.mean(_last_quarter(losses)) for losses in curves[name])
    return Row(name, final, statistics.mean(to_fp32), max(to_fp32), statistics.mean(to_bf16), max(to_bf16))


def spread_of_seeds(of_seeds: list[list[float]]) -> float:
    """Mean |difference| between two seeds' curves over the last quarter: what a difference would be called noise by."""
    return statistics.mean(_apart(a, b) for a, b in combinations(of_seeds, 2))


def smoothed(losses: list[float]) -> list[float]:
    """Exponential moving average, starting with the first loss."""
    curve = losses[:1]
    for loss in losses[1:]:
        curve.append(SMOOTHING * curve[-1] + (1 - SMOOTHING) * loss)
    return curve


def _apart(a: list[float], b: list[float]) -> float:
    return statistics.mean(abs(x - y) for x, y in zip(_last_quarter(a), _last_quarter(b), strict=True))


def _last_quarter(losses: list[float]) -> list[float]:
    return losses[-(len(losses) // 4) :]


def report(rows: list[Row], spread: float, how: str) -> list[str]:
    """The table and the aims on stdout; the aims that were missed."""
    import torch

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {how}")
    print("| | final loss | from FP32, nats | most | from BF16, smoothed | most |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        nats, shares = f"{row.from_fp32:.4f} | {row.from_fp32_most:.4f}", f"{row.from_bf16:.3%} | {row.from_bf16_most:.3%}"
        print(f"| {row.name} | {row.final_loss:.4f} | {nats} | {shares} |")
    print(f"two seeds of fp32 are {spread:.4f} nats apart")
    by_name = {row.name: row for row in rows}
    aims = [
        (by_name[FP8.name].from_bf16 <= AIM, f"{FP8.name} within {AIM:.2%} of bf16"),
        (by_name[CONTROL.name].from_bf16 > AIM, f"{CONTROL.name} further away than that"),
    ]
    print("aims: " + "; ".join(f"{aim} ({'met' if met else 'MISSED'})" for met, aim in aims))
    return [aim for met, aim in aims if not met]


def draw(curves: Curves, path: Path) -> None:
    """The smoothed curves of the first seed, and beside them how far each is from FP32's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    base = smoothed(curves[FP32.name][0])
    for name, of_seeds in curves.items():
        curve = smoothed(of_seeds[0])
        left.plot(range(1, len(curve) + 1), curve, label=name, linewidth=1.2, alpha=0.8)
        right.plot(range(1, len(curve) + 1), [a - b for a, b in zip(curve, base, strict=True)], linewidth=1.2, alpha=0.8)
    left.set(xlabel="step", ylabel="loss, nats per token (smoothed)")
    right.set(xlabel="step", ylabel="above FP32, nats")
    left.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
