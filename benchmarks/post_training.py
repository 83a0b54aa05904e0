"""What fine-tuning, offline RL and preference learning are worth on held-out problems, each beside its controls, over seeds:
whole campaigns.

A campaign a seed, of recipe tiny's model and data with two families of problems alone (sums of two or three digits, lists that
are filtered) and enough tokens to learn them. Asked are held-out problems: of the model before fine-tuning, behind it, of its
control on others' responses; of offline RL on the best of eight answers, of any answer to the same questions (drawn), and of as
many tokens of the fine-tuning data (more); and of DPO behind that on pairs of a right and a wrong answer, as they are and with
half of them exchanged. Pass rates are means over the families; the interval is that of a mean over seeds (Student's t, 95 %).
Aims, in every seed: fine-tuning passes more drawn answers than its control and than one answer to all questions; offline RL
passes more than drawn and than more; DPO more than with half of the pairs exchanged. What DPO has over offline RL alone is told
without an aim.

    python benchmarks/post_training.py [--quick] [--json FILE] [--seed N] [--seeds N] [--folder FOLDER]
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import t as student

PROJECT = Path(__file__).parents[1]
FAMILIES = ("sums", "filters")
MODELS = ("base", "sft-shuffled", "sft", "offline-more", "offline-drawn", "offline", "preference-exchanged", "preference")
AIMS = (  # better, worse
    ("sft", "sft-shuffled"), ("sft", "constant"), ("offline", "offline-drawn"), ("offline", "offline-more"),
    ("preference", "preference-exchanged"),
)  # fmt: skip
TOLD = (*AIMS, ("preference", "offline"))
SFT_TOKENS, OFFLINE_TOKENS, PAIRS, QUICK = 800_000, 160_000, 1024, 4  # a quick run takes a quarter
PAIR_TOKENS = 128  # what a pair counts
PREFERENCE = {"lr": 3e-5, "min_lr": 3e-6, "nll_weight": 1.0}  # the best of six tried on seed 1


def main() -> int:
    """Run the campaigns, print the table and the aims; exit 1 where one is missed."""
    return over_seeds(__doc__ or "", lambda folder, seed, quick: campaign(folder, seed, quick, recipe)[0], tell)


def over_seeds(
    said: str,
    measured: Callable[[Path, int, bool], dict[str, Any]],
    tell: Callable[[dict[int, dict[str, Any]]], list[str]],
) -> int:
    """By the command line: what is `measured` of each seed, told and kept; 1 where `tell` names aims that were missed."""
    parser = argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one seed, a quarter of the tokens: whether it runs, not what it is worth"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="kept, and gone on with: a store with what earlier calls made")
    arguments = parser.parse_args()
    count = 1 if arguments.quick else arguments.seeds
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {seed: measured(folder, seed, arguments.quick) for seed in range(arguments.seed, arguments.seed + count)}
    missed = tell(found)
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({"machine": machine, "quick": arguments.quick, "seeds": found}, indent=1))
    return int(bool(missed))


def recipe(seed: int, quick: bool) -> dict[str, Any]:
    """Recipe tiny with both families alone, more of them held out, and a pretraining without its control."""
    data: dict[str, Any] = yaml.safe_load((PROJECT / "config/recipes/tiny.yaml").read_text())
    share = QUICK if quick else 1
    data["seed"] = seed
    data["data"]["held_out_fraction"] = 0.1
    for name in FAMILIES:
        data["data"]["sources"][name]["items"] = 8000
    data["pretrain"] |= {"milestone_tokens": [], "average": 0, "shuffled_control": False}
    data["evaluate"] = {"suites": ["held_out_perplexity"], "limit": 10}
    sft = data["sft"]
    sft["tasks"] = {name: sft["tasks"][name] for name in FAMILIES}
    budget, offline = SFT_TOKENS // share, OFFLINE_TOKENS // share
    sft |= {"mixture": dict.fromkeys(FAMILIES, 1), "token_budget": budget, "decay_tokens": budget // 2}
    sft |= {"warmup_tokens": budget // 16, "validate_every_tokens": budget, "checkpoint": {"every_tokens": budget // 4}}
    sft |= {"answers": {"prompts": 64 if quick else 256, "samples": 4, "max_new_tokens": 24}}
    del sft["search"], sft["labels"]
    data["offline"] |= {"prompts": 250 if quick else 1000, "filter": {"floor": 0.5}, "token_budget": offline}
    data["offline"] |= {"decay_tokens": offline // 2, "warmup_tokens": offline // 10, "validate_every_tokens": offline}
    data["offline"] |= {"checkpoint": {"every_tokens": offline // 2}, "weights": {"reward": 0}}
    preference = PAIRS // share * PAIR_TOKENS
    data["preference"] |= {"control": True, "sequence_length": PAIR_TOKENS, "token_budget": preference}
    data["preference"] |= {
        "decay_tokens": preference // 2,
        "warmup_tokens": preference // 10,
        "validate_every_tokens": preference,
    }
    data["preference"] |= {"checkpoint": {"every_tokens": preference // 2}, **PREFERENCE}
    data["online"] = {"prompts": 0}
    data["reward"] = {"prefixes": 0}  # without a milestone its roster would be too small
    return data


def campaign(
    folder: Path, seed: int, quick: bool, made: Callable[[int, bool], dict[str, Any]], prefix: str = "seed"
) -> tuple[dict[str, Any], Path]:
    """What the report of one campaign of the recipe `made` says of the families and how long it took; and its folder."""
    name = f"{prefix}-{seed}{'-quick' if quick else ''}"
    (path := folder / f"{name}.yaml").write_text(yaml.safe_dump(made(seed, quick), sort_keys=False))
    site = folder / "site.yaml"
    site.write_text(yaml.safe_dump({"extends": "laptop", "store": str(folder / "store")}))
    began = time.monotonic()
    words = ["--config", f"recipe={path}", f"site={site}", f"campaign={name}"]
    with (folder / f"{name}.log").open("w") as log:
        done = subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=PROJECT, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"the campaign of seed {seed} failed; see {log.name}, and start again with --folder {folder}")
    [report] = (folder / "store" / "campaigns").glob(f"*/{name}/report/campaign/results.json")
    results = json.loads(report.read_text())
    seconds = time.monotonic() - began
    print(f"seed {seed}: {seconds:.0f} s", file=sys.stderr)
    kept = ("answers", "selected", "tasks")
    return {"seconds": seconds, **{section: copy.deepcopy(results[section]) for section in kept}}, report.parents[2]


def rates(results: dict[str, Any], model: str, way: str) -> float:
    """The mean of a model's pass rates over the families."""
    return statistics.fmean(row[way] for row in results["answers"] if row["model"] == model)


def tell(found: dict[int, dict[str, Any]]) -> list[str]:
    """Print the tables; returns the aims that were missed."""
    print(f"| pass rate, mean of {' and '.join(FAMILIES)} | drawn answers | likeliest answers | seeds |\n|---|---:|---:|---|")
    for model in MODELS:
        drawn, greedy = ([rates(results, model, way) for results in found.values()] for way in ("sampled", "greedy"))
        print(f"| {model} | {mean(drawn)} | {mean(greedy)} | {', '.join(f'{rate:.3f}' for rate in drawn)} |")
    constant = [rates(results, "base", "constant") for results in found.values()]
    print(f"| always one answer | {mean(constant)} | {mean(constant)} | |")
    print("\n| learnt from, of the questions asked | " + " | ".join(FAMILIES) + " |\n|---|---:|---:|")
    for seed, results in found.items():
        rows = {row["task"]: row for row in results["selected"]}
        cells = (f"{rows[f]['kept']} of {rows[f]['questions']}, {rows[f]['kept_by_floor']} by the floor" for f in FAMILIES)
        print(f"| seed {seed} | {' | '.join(cells)} |")
    missed = []
    for better, worse in TOLD:
        gains = []
        for results in found.values():
            other = rates(results, "sft", "constant") if worse == "constant" else rates(results, worse, "sampled")
            gains.append(rates(results, better, "sampled") - other)
        is_aim, met = (better, worse) in AIMS, min(gains) > 0
        verdict = f" (aim: above 0 in every seed: {'met' if met else 'MISSED'})" if is_aim else ""
        print(f"{better} over {worse}, drawn answers: {mean(gains, sign='+')}{verdict}")
        missed += [f"{better} over {worse}"] if is_aim and not met else []
    return missed


def mean(values: Sequence[float], sign: str = "") -> str:
    """As text, with the half width of the interval where there are several."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{sign}.3f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{sign}.3f} ± {half:.3f}"


if __name__ == "__main__":
    sys.exit(main())
