"""What online RL is worth on held-out problems, beside more fine-tuning, best-of-N, and rewards that say nothing.

A campaign a seed, as post_training.py's: sums of two or three digits and lists that are filtered, one fine-tuned model. From that
start online RL (`online`), the same with rewards drawn at the true rate of each round (`online-random`) and with those of other
prompts' answers (`online-shuffled`), offline RL on the best of eight answers (`offline`), and as many tokens more of the
demonstrations (`offline-more`). Asked are 256 held-out problems a family: answers drawn at temperature 1, the likeliest, and
whether any of four drawn ones is right (pass@4). Rates are means over the families, intervals those of a mean over seeds
(Student's t, 95 %). Aims: online RL at least 0.08 over its start in every seed, drawn answers; both controls below the start.
What is gained over best-of-N and more fine-tuning, greedy, and in pass@4, is told without an aim: where pass@4 does not rise
with the drawn answers, what was right now and then is said more often, and little new is learnt. Told beside are the seconds of
a step and of a round, by what they go to.

    python benchmarks/rl.py [--quick] [--json FILE] [--seed N] [--seeds N] [--folder FOLDER]
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import post_training
from post_training import FAMILIES, QUICK

from athanor.tracking.spool import Kind, read_records, spool_files

MODELS = ("sft", "offline-more", "offline", "online", "online-random", "online-shuffled")
WAYS = {"sampled": "drawn answers", "greedy": "the likeliest", "any": "pass@4"}
LEAST_GAIN = 0.08
ROUNDS, PROMPTS, SAMPLES, ANSWER_TOKENS = 200, 64, 8, 96  # an answer counts so many tokens
PARTS = ("step_seconds", "round_seconds")  # a round is the first of its steps' "data"
ONLINE = {"lr": 1e-4, "min_lr": 1e-5}


def main() -> int:
    """Run the campaigns, print the tables and the aims; exit 1 where one is missed."""
    return post_training.over_seeds(__doc__ or "", measured, tell)


def recipe(seed: int, quick: bool) -> dict[str, Any]:
    """post_training.py's, without preferences, and online RL from the fine-tuned model."""
    data = post_training.recipe(seed, quick)
    data["preference"] = {"kind": "none"}
    data["sft"]["shuffled_control"] = False
    answers = PROMPTS * SAMPLES
    round_tokens = answers * ANSWER_TOKENS
    rounds = ROUNDS // (QUICK if quick else 1)
    data["online"] = {
        "start": "sft",
        "mixture": dict.fromkeys(FAMILIES, 1),
        "pool": 1000,
        "probes": 0,
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "max_new_tokens": 24,
        "sequence_length": ANSWER_TOKENS,
        "batch_tokens": round_tokens // 4,
        "token_budget": rounds * round_tokens,
        "warmup_tokens": 2 * round_tokens,
        "decay_tokens": rounds * round_tokens // 4,
        "validate_every_tokens": rounds * round_tokens,
        "checkpoint": {"every_tokens": 10 * round_tokens},
        "parallel": {"ranks": 2, "micro_batch_size": 16},
        "zero": {"stage": 0},
        "drop_norms": 0.03,
        "controls": ["random", "shuffled"],
        **ONLINE,
    }
    return data


def measured(folder: Path, seed: int, quick: bool) -> dict[str, Any]:
    """What one campaign says of every model, by family, and what online RL did and took."""
    found, campaign = post_training.campaign(folder, seed, quick, recipe, "rl")
    rows = found["answers"]
    for row in rows:
        row["any"] = pass_at(campaign / "answers" / row["model"] / "answers.jsonl", row["task"])
    manifest = json.loads((campaign / "online" / "model" / "manifest.json").read_text())
    seconds = manifest["provenance"]["seconds"]
    online = {**manifest["result"]["counters"], "seconds": seconds, "parts": parts(campaign / "online" / "model")}
    return {"seconds": found["seconds"], "answers": rows, "online": online}


def parts(folder: Path) -> dict[str, float]:
    """Mean seconds of a step and of a round by their parts, over what a training has told while it went."""
    told: dict[str, list[float]] = {}
    for record in (record for path in spool_files(folder) for record in read_records(path) if record.kind is Kind.METRICS):
        for name, value in record.payload.items():
            if name.startswith(PARTS):
                told.setdefault(name, []).append(float(value))
    return {name: statistics.fmean(values) for name, values in told.items()}


def pass_at(path: Path, task: str) -> float:
    """The share of a task's questions that one of the drawn answers is right on."""
    right: dict[str, bool] = {}
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["task"] == task and row["way"] == "sampled":
                right[row["prompt"]] = right.get(row["prompt"], False) or row["right"]
    return statistics.fmean(right.values())


def rate(results: dict[str, Any], model: str, way: str) -> float:
    """The mean of a model's rates over the families."""
    return statistics.fmean(row[way] for row in results["answers"] if row["model"] == model and row["task"] in FAMILIES)


def tell(found: dict[int, dict[str, Any]]) -> list[str]:
    """Print the tables; returns the aims that were missed."""
    print(f"| mean of {' and '.join(FAMILIES)} | {' | '.join(WAYS.values())} | drawn, by seed |\n|---|---:|---:|---:|---|")
    for model in MODELS:
        cells = [post_training.mean([rate(results, model, way) for results in found.values()]) for way in WAYS]
        seeds = ", ".join(f"{rate(results, model, 'sampled'):.3f}" for results in found.values())
        print(f"| {model} | {' | '.join(cells)} | {seeds} |")
    for seed, results in found.items():
        online = results["online"]
        print(
            f"seed {seed}: {online['rounds']} rounds, {online['answers']:,} answers, {online['learnt_from']:,} learnt from, "
            f"{online['steps_left_out']} of {online['step']} steps left out, {online['seconds'] / 60:.1f} minutes"
        )
        for whole in PARTS:
            split = [
                f"{name.partition('/')[2]} {value:.3f}" for name, value in online["parts"].items() if name.startswith(f"{whole}/")
            ]
            print(f"seed {seed}: {whole} {online['parts'][whole]:.3f}: {', '.join(split)}")
    missed = []
    for way, name in WAYS.items():
        for worse in MODELS:
            if worse != "online":
                gains = _gains(found, "online", worse, way)
                told = f"online over {worse}, {name}: {post_training.mean(gains, sign='+')}"
                if (way, worse) == ("sampled", "sft"):
                    met = min(gains) >= LEAST_GAIN
                    told += f" (aim: {LEAST_GAIN} in every seed: {'met' if met else 'MISSED'})"
                    missed += [] if met else ["online over sft"]
                print(told)
    for control in ("online-random", "online-shuffled"):
        gains = _gains(found, control, "sft", "sampled")
        met = max(gains) < 0
        told = f"{control} over its start, drawn answers: {post_training.mean(gains, sign='+')}"
        print(f"{told} (aim: below 0 in every seed: {'met' if met else 'MISSED'})")
        missed += [] if met else [f"{control} below sft"]
    return missed


def _gains(found: dict[int, dict[str, Any]], better: str, worse: str, way: str) -> Sequence[float]:
    return [rate(results, better, way) - rate(results, worse, way) for results in found.values()]


if __name__ == "__main__":
    sys.exit(main())
