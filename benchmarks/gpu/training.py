"""Training on one GPU: recipe h100's model in BF16 and each FP8 recipe, routed as it learns to and with the load forced even,
beside Hugging Face's Trainer in BF16.

Same weights, samples, order, optimizer and schedule for all. Prints tokens/s, MFU against the peak that it names, memory, and
how far FP8's losses are from BF16's over all steps. Forced balance (every expert gets as many tokens, whatever the router
says) shows what uneven experts cost; its losses mean nothing. `--rows` runs some of them, for machines that are lent for
minutes, and `--add FILE` takes the rows of an earlier run along.

    python benchmarks/gpu/training.py [--quick] [--rows NAME,…] [--add FILE] [--json FILE] [--seed N] [--cpu]
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from training import Contestant, differences, run
from training_rank import INITIALIZE, OURS, Order

from athanor.recipe.loading import read_recipe
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe

AIM_PEER = 1.0  # our BF16 tokens/s over the Trainer's
AIM_FP8 = 1.0  # the best FP8 recipe's tokens/s over our BF16's
AIM_LOSS = 0.05  # nats, mean over the last quarter of the steps: FP8 must train as BF16 does
TRAINER = "Trainer bf16"
BALANCED = ", balanced"
MICRO_BATCH_SIZE = 4


@dataclass(frozen=True)
class Way:
    """One contestant."""

    kind: str
    precision: Precision
    balanced: bool = False


def _ways(precisions: Sequence[Precision]) -> dict[str, Way]:
    ours = {f"{p.value}{BALANCED if even else ''}": Way(OURS, p, even) for p in precisions for even in (False, True)}
    return {TRAINER: Way("grouped_mm", Precision.BF16), **ours}


ON_GPU = _ways([Precision.BF16, Precision.FP8_BLOCKWISE, Precision.FP8_TENSORWISE, Precision.FP8_DELAYED])
ON_CPU = _ways([Precision.BF16, Precision.FP8_EMULATED])


@dataclass(frozen=True)
class Row:
    """One contestant: medians over the timed steps."""

    name: str
    tokens_per_second: float
    mfu: float | None  # None where no peak is known
    peak: str
    peak_gpu_bytes: int
    losses: tuple[float, ...]


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="9 steps instead of 300")
    parser.add_argument("--rows", help=f"of {', '.join(ON_GPU)}; all of them")
    parser.add_argument("--add", type=Path, metavar="FILE", help="--json of an earlier run, whose rows are shown, too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="recipe tiny's model and fp8_emulated: not for its figures")
    arguments = parser.parse_args()
    ways = ON_CPU if arguments.cpu else ON_GPU
    chosen = arguments.rows.split(",") if arguments.rows else list(ways)
    if unknown := set(chosen) - set(ways):
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}; there is {', '.join(ways)}")
    steps = 9 if arguments.quick else 300
    rows = [Row(**row) for row in json.loads(arguments.add.read_text())["rows"]] if arguments.add else []
    with tempfile.TemporaryDirectory() as scratch:
        rows += measure(Path(scratch), {name: ways[name] for name in chosen}, steps, arguments.seed, on_cpu=arguments.cpu)
    missed = report({row.name: row for row in rows}, f"{steps} steps, seed {arguments.seed}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "missed": missed}, indent=1))
    return 1 if missed else 0


def recipe_for(precision: Precision, steps: int, seed: int, *, on_cpu: bool) -> Recipe:
    """The model and sequences of recipe h100 (or tiny), a micro-batch a step, and a schedule that fits `steps`."""
    recipe = copy.deepcopy(read_recipe("tiny" if on_cpu else "h100").recipe)
    recipe.seed, recipe.model.aux_loss_coefficient = seed, 0.0
    p = recipe.pretrain
    p.precision, p.parallel.micro_batch_size, p.parallel.ranks, p.parallel.expert = precision, MICRO_BATCH_SIZE, 1, 1
    p.batch_tokens = MICRO_BATCH_SIZE * p.sequence_length
    p.token_budget = steps * p.batch_tokens
    p.warmup_tokens, p.decay_tokens = p.token_budget // 4, p.token_budget // 4
    p.milestone_tokens, p.batch_switches, p.log_every_steps, p.noise_scale_every_steps = [], [], 1, 0
    p.validate_every_tokens = p.checkpoint.every_tokens = 10**15
    return recipe


def measure(scratch: Path, ways: dict[str, Way], steps: int, seed: int, *, on_cpu: bool) -> list[Row]:
    """All contestants, one after the other, each in a process of its own."""
    start, weights = recipe_for(Precision.FP32, steps, seed, on_cpu=on_cpu), scratch / "weights"
    run(Contestant(INITIALIZE, INITIALIZE, 1, 8), Order(INITIALIZE, start, weights, weights, steps, seed))
    rows = []
    for name, way in ways.items():
        recipe, folder = recipe_for(way.precision, steps, seed, on_cpu=on_cpu), scratch / name.replace(" ", "-")
        run(Contestant(name, way.kind, 1, 8), Order(way.kind, recipe, folder, weights, steps, seed, balanced=way.balanced))
        rows.append(_row(name, recipe, json.loads((folder / "result.json").read_text())))
    return rows


def _row(name: str, recipe: Recipe, result: dict[str, list[float]]) -> Row:
    from athanor.training.utilisation import flops_per_token, known_peak

    p = recipe.pretrain
    speed = statistics.median(p.batch_tokens / seconds for seconds in differences(result["times"]))
    peak = known_peak(p.precision, 0.0)
    mfu = speed * flops_per_token(recipe.model, p.sequence_length) / peak.flops_per_second if peak else None
    print(f"  {name}: {speed:,.0f} tokens/s", file=sys.stderr, flush=True)
    return Row(name, speed, mfu, peak.name if peak else "", int(result["gpu_bytes"][0]), tuple(result["losses"]))


def report(rows: dict[str, Row], how: str) -> list[str]:
    """Print the table and the aims; the aims that were missed. Those whose rows are not there are left open."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{device}, torch {torch.__version__}, {how}")
    print(f"{'':28} {'tokens/s':>9} {'MFU':>6} {'GiB':>5} {'final loss':>10} {'from bf16':>10}  peak")
    bf16 = rows.get(Precision.BF16.value)
    for row in rows.values():
        apart = f"{_apart(row, bf16):10.4f}" if bf16 and not row.name.endswith(BALANCED) else f"{'':10}"
        mfu = f"{row.mfu:6.1%}" if row.mfu is not None else f"{'':6}"
        memory = f"{row.peak_gpu_bytes / 2**30:5.1f}"
        print(f"{row.name:28} {row.tokens_per_second:9,.0f} {mfu} {memory} {_final(row):10.4f} {apart}  {row.peak}")
    aims = list(_aims(rows))
    print("aims: " + "; ".join(f"{aim} ({'met' if met else 'MISSED'})" for met, aim in aims))
    return [aim for met, aim in aims if not met]


def _aims(rows: dict[str, Row]) -> list[tuple[bool, str]]:
    bf16, peer = rows.get(Precision.BF16.value), rows.get(TRAINER)
    fp8 = [row for row in rows.values() if row.name.startswith("fp8") and not row.name.endswith(BALANCED)]
    aims = []
    if bf16 and peer:
        ratio = bf16.tokens_per_second / peer.tokens_per_second
        aims.append((ratio >= AIM_PEER, f"BF16 at least {AIM_PEER} x the Trainer: {ratio:.2f}"))
    if bf16 and fp8:
        ratio = max(row.tokens_per_second for row in fp8) / bf16.tokens_per_second
        aims.append((ratio >= AIM_FP8, f"best FP8 at least {AIM_FP8} x BF16: {ratio:.2f}"))
        apart = max(_apart(row, bf16) for row in fp8)
        aims.append((apart <= AIM_LOSS, f"FP8's losses within {AIM_LOSS} nats of BF16's: {apart:.4f}"))
    return aims


def _last_quarter(row: Row) -> tuple[float, ...]:
    return row.losses[-max(1, len(row.losses) // 4) :]


def _final(row: Row) -> float:
    return statistics.mean(_last_quarter(row))


def _apart(row: Row, other: Row) -> float:
    """Mean absolute difference of the steps' losses over the last quarter, nats."""
    return statistics.mean(abs(a - b) for a, b in zip(_last_quarter(row), _last_quarter(other), strict=True))


if __name__ == "__main__":
    sys.exit(main())
