"""Training speed on one GPU: recipe h100's model in BF16 and each FP8 recipe, beside Hugging Face's Trainer in BF16.

`python benchmarks/gpu/precision.py [--quick] [--json FILE] [--seed N]`: same weights, samples, order, optimizer and
schedule for all. Prints tokens/s, model TFLOP/s and their share of the GPU's dense BF16 peak, memory and losses; exits 1
where an aim is missed.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from training import Contestant, differences, run
from training_rank import INITIALIZE, OURS, Order

from athanor.recipe.loading import read_recipe
from athanor.recipe.schema import Model, Precision, Recipe

AIM_PEER = 1.0  # our BF16 tokens/s over the Trainer's
AIM_FP8 = 1.0  # the best FP8 recipe's tokens/s over our BF16's
AIM_LOSS = 0.05  # nats between any two of ours: FP8 must train as BF16 does
PEAK_BF16 = 989e12  # FLOP/s, H100 SXM and H200, dense (NVIDIA's data sheets)
PRECISIONS = (Precision.BF16, Precision.FP8_BLOCKWISE, Precision.FP8_TENSORWISE, Precision.FP8_DELAYED)
PEER = "grouped_mm"
BATCH_TOKENS, MICRO_BATCH_SIZE = 131_072, 4


@dataclass(frozen=True)
class Row:
    """One contestant: medians over the timed steps."""

    name: str
    tokens_per_second: float
    model_flops: float  # FLOP/s, recomputation not counted
    peak_gpu_bytes: int
    final_loss: float  # mean of the last quarter of the steps
    losses: tuple[float, ...]


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="9 steps instead of 40")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    steps = 9 if arguments.quick else 40
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), steps, arguments.seed)
    missed = report(rows, f"{steps} steps of {BATCH_TOKENS:,} tokens, seed {arguments.seed}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "missed": missed}, indent=1))
    return 1 if missed else 0


def recipe_for(precision: Precision, steps: int, seed: int) -> Recipe:
    """Recipe h100's model and sequences, with a small batch and a schedule that fits `steps`."""
    recipe = copy.deepcopy(read_recipe("h100").recipe)
    recipe.seed, recipe.model.aux_loss_coefficient = seed, 0.0
    p = recipe.pretrain
    p.precision, p.batch_tokens, p.parallel.micro_batch_size = precision, BATCH_TOKENS, MICRO_BATCH_SIZE
    p.token_budget = steps * p.batch_tokens
    p.warmup_tokens, p.decay_tokens = p.token_budget // 4, p.token_budget // 4
    p.milestone_tokens, p.batch_switches, p.log_every_steps = [], [], 1
    p.validate_every_tokens = p.checkpoint.every_tokens = 10**15
    return recipe


def measure(scratch: Path, steps: int, seed: int) -> list[Row]:
    """All contestants, one after the other, each in a process of its own."""
    start = recipe_for(Precision.FP32, steps, seed)
    weights = scratch / "weights"
    run(Contestant(INITIALIZE, INITIALIZE, 1, 8), Order(INITIALIZE, start, weights, weights, steps, seed))
    contestants = [(Contestant("Trainer bf16", PEER, 1, 8), Precision.BF16)]
    contestants += [(Contestant(f"athanor {precision.value}", OURS, 1, 8), precision) for precision in PRECISIONS]
    return [_row(c, recipe_for(precision, steps, seed), scratch, weights, steps, seed) for c, precision in contestants]


def _row(contestant: Contestant, recipe: Recipe, scratch: Path, weights: Path, steps: int, seed: int) -> Row:
    folder = scratch / contestant.name.replace(" ", "-")
    run(contestant, Order(contestant.kind, recipe, folder, weights, steps, seed))
    result = json.loads((folder / "result.json").read_text())
    speed = statistics.median(BATCH_TOKENS / seconds for seconds in differences(result["times"]))
    losses = result["losses"]
    final = statistics.mean(losses[-max(1, len(losses) // 4) :])
    flops = speed * flops_per_token(recipe.model, recipe.pretrain.sequence_length)
    row = Row(contestant.name, speed, flops, result["gpu_bytes"][0], final, tuple(losses))
    shown = f"{speed:,.0f} tokens/s, {row.peak_gpu_bytes / 2**30:.1f} GiB, final loss {final:.4f}"
    print(f"  {row.name}: {shown}", file=sys.stderr, flush=True)
    return row


def flops_per_token(model: Model, sequence_length: int) -> float:
    """Forward and backward: 6 a weight that a token meets, and causal attention (half of the scores)."""
    heads = model.num_attention_heads * model.head_dim
    attention = model.hidden_size * (2 * heads + 2 * model.num_query_groups * model.head_dim)
    experts = model.experts_per_token * 3 * model.hidden_size * model.expert_ffn_size
    router = model.hidden_size * model.num_experts
    weights = model.num_layers * (attention + experts + router) + model.hidden_size * model.vocab_size
    return 6.0 * weights + 6.0 * model.num_layers * sequence_length * heads


def report(rows: list[Row], how: str) -> list[str]:
    """Print the table and the aims; the aims that were missed."""
    import torch

    peer, bf16, *fp8 = rows
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {how}")
    print(f"{'':24} {'tokens/s':>9} {'ratio':>6} {'TFLOP/s':>8} {'of BF16 peak':>12} {'GiB':>5} {'final loss':>10}")
    for row in rows:
        ratio, share = row.tokens_per_second / peer.tokens_per_second, row.model_flops / PEAK_BF16
        speed = f"{row.tokens_per_second:9,.0f} {ratio:6.2f} {row.model_flops / 1e12:8.1f} {share:12.1%}"
        print(f"{row.name:24} {speed} {row.peak_gpu_bytes / 2**30:5.1f} {row.final_loss:10.4f}")
    best = max(fp8, key=lambda row: row.tokens_per_second)
    apart = max(abs(row.final_loss - bf16.final_loss) for row in fp8)
    figures = [
        (bf16.tokens_per_second / peer.tokens_per_second >= AIM_PEER, f"BF16 at least {AIM_PEER} x the Trainer"),
        (best.tokens_per_second / bf16.tokens_per_second >= AIM_FP8, f"best FP8 at least {AIM_FP8} x BF16"),
        (apart <= AIM_LOSS, f"FP8's final loss within {AIM_LOSS} nats of BF16's"),
    ]
    missed = [aim for met, aim in figures if not met]
    print("aims: " + "; ".join(f"{aim} ({'met' if met else 'MISSED'})" for met, aim in figures))
    return missed


if __name__ == "__main__":
    sys.exit(main())
