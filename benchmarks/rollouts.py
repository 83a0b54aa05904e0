"""Tokens a second of the in-process rollout engine beside transformers' `generate`: same model, prompts and settings.

A random Qwen3-MoE of recipe tiny's size (4 layers, hidden 128, 8 experts, 4,096 words) answers prompts of 8 to 24 tokens,
8 samples each, at most 48 new tokens at temperature 1. Where one token in seven ends an answer, answers are as long as those of
tiny's fine-tuned model (7.5 tokens): that is what the engine is for, since `generate` goes on with all rows until the last has
ended. Where next to none does, answers are 48 tokens long, and little can be gained. Rounds of both take turns. Counted are the
tokens up to each answer's end, by the processor's time, since these machines are shared; greedy answers are compared as well.
Aims: AIM times `generate` on answers that end, and the same greedy tokens for every prompt.

    python benchmarks/rollouts.py [--quick] [--json FILE] [--seed N]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Prompt, Sampling

AIM = 4.0
VOCABULARY, PAD, NEW_TOKENS, SAMPLES = 4096, 1, 48, 8
ENDS = {"answers that end": range(3, 3 + VOCABULARY // 7), "answers of 48 tokens": range(3, 4)}  # tokens that end one
SHAPE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "intermediate_size": 256, "head_dim": 32}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "hidden_size": 128}


def main() -> int:
    """Measure, print the table and the aims; exit 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 32 prompts instead of 5 of 128")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rounds, count = (2, 32) if arguments.quick else (5, 128)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments.seed)
        found = {name: measure(Path(folder), count, rounds, arguments.seed, list(ends)) for name, ends in ENDS.items()}
    print(f"| {count} prompts, {SAMPLES} samples | engine | tokens/core-s, median of {rounds} | lowest to highest | ratio |")
    print("|---|---|---:|---:|---:|")
    ratios = {}
    for workload, (speeds, _) in found.items():
        peer = statistics.median(speeds["generate"])
        for name, some in speeds.items():
            ratio = statistics.median(some) / peer
            print(
                f"| {workload} | {name} | {statistics.median(some):,.0f} | {min(some):,.0f} to {max(some):,.0f} | {ratio:.1f} |"
            )
        ratios[workload] = statistics.median(speeds["athanor"]) / peer
    ratio, same = ratios["answers that end"], min(same for _, same in found.values())
    print(
        f"{ratio:.1f} times generate on answers that end (aim {AIM:.0f}); greedy answers the same for {same} of {count} (aim all)"
    )
    if arguments.json:
        machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
        rows = {workload: {"speeds": speeds, "same": same} for workload, (speeds, same) in found.items()}
        arguments.json.write_text(json.dumps({"machine": machine, "workloads": rows}, indent=1))
    return int(ratio < AIM or same < count)


def write_model(folder: Path, seed: int) -> None:
    """Random weights: all tokens are about as likely."""
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=VOCABULARY, max_position_embeddings=512, **SHAPE))
    model.generation_config = GenerationConfig(pad_token_id=PAD)
    model.save_pretrained(folder)


def measure(folder: Path, count: int, rounds: int, seed: int, ends: list[int]) -> tuple[dict[str, list[float]], int]:
    """Tokens a core-second of every round, and for how many prompts both say the same greedily."""
    random = np.random.default_rng(seed)
    rows = [tuple(random.integers(VOCABULARY // 2, VOCABULARY, size=random.integers(8, 25)).tolist()) for _ in range(count)]
    prompts = [Prompt(f"p{i:04d}", row) for i, row in enumerate(rows)]
    engine, model = InProcessEngine(folder, ends), AutoModelForCausalLM.from_pretrained(folder).eval()

    def ours(sampling: Sampling) -> list[tuple[int, ...]]:
        samples = sorted(engine.generate(prompts, sampling), key=lambda sample: (sample.prompt, sample.number))
        return [sample.tokens for sample in samples]

    def theirs(sampling: Sampling) -> list[tuple[int, ...]]:
        width = max(map(len, rows))
        ids = torch.tensor([[PAD] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        drawn = {"do_sample": True, "num_return_sequences": sampling.samples, "top_k": 0} if sampling.temperature else {}
        with torch.inference_mode():
            said = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, eos_token_id=ends, **drawn
            )
        return [_up_to_the_end(row, ends) for row in said[:, width:].tolist()]

    drawn, greedy = Sampling(SAMPLES, 1.0, max_new_tokens=NEW_TOKENS, seed=seed), Sampling(1, 0.0, max_new_tokens=NEW_TOKENS)
    same = sum(one[: len(other)] == other for one, other in zip(theirs(greedy), ours(greedy), strict=True))
    speeds: dict[str, list[float]] = {"athanor": [], "generate": []}
    for _ in range(rounds):
        for name, answer in (("athanor", ours), ("generate", theirs)):
            speeds[name].append(_speed(answer, drawn))
    return speeds, same


def _up_to_the_end(row: list[int], ends: list[int]) -> tuple[int, ...]:
    last = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return tuple(row[: last + 1])


def _speed(answer: Callable[[Sampling], list[tuple[int, ...]]], sampling: Sampling) -> float:
    began = time.process_time()
    said = answer(sampling)
    return sum(map(len, said)) / (time.process_time() - began)


if __name__ == "__main__":
    sys.exit(main())
