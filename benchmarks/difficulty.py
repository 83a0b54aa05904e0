"""Whether fine-tuning answers more held-out problems right when it learns hard ones more often, over seeds.

A dense model of 0.4M parameters learns sums of one digit and lists that are filtered from its first weights on, by plain torch
on padded batches: questions, labels, levels, repeats and answers are those of the stages, the training loop is not. A short
training of the same start (a quarter of the tokens) labels the training questions. Then three models learn equally many tokens:
of everything once (`once`); with hard questions three times, each time in other words (`hard`); with as many questions drawn by
lot of those labelled three times (`drawn`, the control). Asked are held-out questions, four times each. No aim: the table
says what the option was worth here, beside each other arm in every seed.

    python benchmarks/difficulty.py [--quick] [--json FILE] [--seed N] [--seeds N]
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from athanor.data.bpe import save, train
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import (
    HELD_OUT_FILE,
    TRAINING_FILE,
    Conversation,
    answer_of,
    other_phrasings,
    question_of,
    read_conversations,
    write_conversations,
)
from athanor.data.packing import Encoded
from athanor.data.sources.reasoning_gym_problems import read_problems
from athanor.recipe.schema.choices import Difficulty, DocumentFormat, SourceKind
from athanor.recipe.schema.post_training import Labels, SftTask, Turn
from athanor.recipe.schema.recipe import Data, Source, Tokenizer
from athanor.rewards.verifiers import Judge
from athanor.rl.difficulty import grade
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Finish, Prompt, Sampling
from athanor.rl.selection import lot
from athanor.stages.curation import repeats_of

ARMS = ("once", "drawn", "hard")
ITEMS, LABELLED, ASKED, SAMPLES, BATCH, LR = 2400, 1000, 240, 4, 64, 3e-3
TOKENS = 400_000  # of each arm's training
RULE = Labels(repeats={"hard": 3})
ONE_DIGIT = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
LISTS = {"min_numbers": 3, "max_numbers": 3, "min_decimals": 0, "max_decimals": 0, "min_value": 0, "max_value": 9}
FAMILIES = {
    "sums": ("chain_sum", ONE_DIGIT, ["{expression} =", "What is {expression}?", "Say what {expression} makes."]),
    "filters": ("number_filtering", LISTS, ["{question}", "{question} Give the list.", "A task. {question}"]),
}
Task = dict[str, list[Conversation]]


class Problems:
    """Conversations of both families, as stage `conversations` makes them, and their phrasings."""

    def __init__(self, folder: Path) -> None:
        self.train: Task = {}
        self.held_out: Task = {}
        self.ways: dict[str, dict[str, list[Conversation]]] = {}
        for name, (package, options, prompts) in FAMILIES.items():
            kind = {"kind": SourceKind.REASONING_GYM, "format": DocumentFormat.ROWS, "licence": "", "domain": name}
            source = Source(**kind, package=package, version="0.1.25", items=ITEMS, options=options, entity="{question}")  # type: ignore[arg-type]
            task = SftTask(source=name, turns=[Turn(prompts=prompts, response="{answer}")])
            (place := folder / name).mkdir()
            data = Data(held_out_fraction=0.15, split_seed=1)
            write_conversations(read_problems(source), source, task, data, Tokenizer().special_tokens, place, lambda _: None)
            self.train[name] = list(read_conversations(place / TRAINING_FILE))
            self.held_out[name] = list(read_conversations(place / HELD_OUT_FILE))[:ASKED]
            wanted = {conversation.id: conversation for conversation in self.train[name]}
            self.ways[name] = other_phrasings(read_problems(source), task, wanted, Tokenizer().special_tokens, lambda _: None)


def main() -> None:
    """Train and ask every arm of every seed; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the tokens: whether it runs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        problems = Problems(folder)
        texts = [str(c.messages) for some in problems.train.values() for c in some[:400]]
        (weights := folder / "model").mkdir()
        save(train(texts, Tokenizer(vocab_size=384)), Tokenizer(vocab_size=384), weights)
        tokens, count = (TOKENS // 10, 1) if arguments.quick else (TOKENS, arguments.seeds)
        seeds = range(arguments.seed, arguments.seed + count)
        found = {seed: measure(problems, weights, seed, tokens) for seed in seeds}
    tell(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def measure(problems: Problems, weights: Path, seed: int, tokens: int) -> dict[str, Any]:
    """Pass rates by arm and family, and the levels of the labelled questions."""
    began = time.process_time()
    everything = [c for some in problems.train.values() for c in some]
    fine_tune(everything, weights, seed, tokens // 4)
    extra: dict[str, list[Conversation]] = {arm: [] for arm in ARMS}
    levels = {}
    for name, some in problems.train.items():
        labelled = some[:LABELLED]
        graded = grade(ask(labelled, weights, seed, RULE.samples), RULE)
        levels[name] = {level.value: graded.count(level) for level in Difficulty}
        hard = [c for c in labelled if graded.levels[c.id] is Difficulty.HARD]
        drawn = sorted(labelled, key=lambda c: lot(c.id, seed))[: len(hard)]
        for arm, chosen in (("hard", hard), ("drawn", drawn)):
            often = {c.id: c for c in chosen}
            extra[arm] += repeats_of(often, dict.fromkeys(often, RULE.repeats["hard"]), problems.ways[name])
    rates: dict[str, dict[str, float]] = {}
    for arm in ARMS:
        fine_tune([*everything, *extra[arm]], weights, seed, tokens)
        rates[arm] = {
            name: statistics.fmean(ask(some, weights, seed, SAMPLES).values()) for name, some in problems.held_out.items()
        }
        print(f"seed {seed}, {arm}: {rates[arm]}, {time.process_time() - began:.0f} CPU-seconds", flush=True)
    return {"rates": rates, "levels": levels, "repeats": {arm: len(some) for arm, some in extra.items()}}


def fine_tune(conversations: Sequence[Conversation], weights: Path, seed: int, tokens: int) -> None:
    """From the seed's first weights, into the folder `weights`, until so many tokens were seen."""
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 256, "head_dim": 24, "num_attention_heads": 4}
    model: Any = Qwen3ForCausalLM(Qwen3Config(**shape, num_key_value_heads=2, vocab_size=384, max_position_embeddings=256))
    coded = list(ChatEncoder(weights).encode(conversations))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1)
    seen = 0
    for batch in batches(coded, seed):
        if seen >= tokens:
            break
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, 10 * seen / tokens + 0.01) * (0.55 + 0.45 * math.cos(math.pi * seen / tokens))
        longest = max(len(one.ids) for one in batch)
        ids = torch.tensor([[*one.ids, *[1] * (longest - len(one.ids))] for one in batch])
        counts = torch.tensor([[*one.counts, *[0] * (longest - len(one.ids))] for one in batch]).bool()
        mask = torch.tensor([[1] * len(one.ids) + [0] * (longest - len(one.ids)) for one in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=torch.where(counts, ids, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += sum(len(one.ids) for one in batch)
    model.save_pretrained(weights)


def batches(coded: Sequence[Encoded], seed: int) -> Iterator[list[Encoded]]:
    """Without end, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(coded), generator=generator).tolist()
        for begin in range(0, len(order) - BATCH + 1, BATCH):
            yield [coded[place] for place in order[begin : begin + BATCH]]


def ask(conversations: Sequence[Conversation], weights: Path, seed: int, samples: int) -> dict[str, float]:
    """The share of right answers to each question, at temperature 1."""
    encoder, judge = ChatEncoder(weights), Judge()
    by_id = {conversation.id: conversation for conversation in conversations}
    prompts = [Prompt(name, encoder.prompt(*question_of(c))) for name, c in by_id.items()]
    engine = InProcessEngine(weights, encoder.ends)
    right = dict.fromkeys(by_id, 0)
    for begin in range(0, len(prompts), 256):
        for sample in engine.generate(prompts[begin : begin + 256], Sampling(samples, max_new_tokens=24, seed=seed)):
            one, said = by_id[sample.prompt], encoder.decode(sample.tokens)
            right[sample.prompt] += sample.finish is Finish.STOP and judge.is_right(said, answer_of(one), one.entry)
    engine.close()
    return {name: count / samples for name, count in right.items()}


def tell(found: dict[int, dict[str, Any]]) -> None:
    """Means over the families, and the differences seed by seed."""
    means = {arm: [statistics.fmean(one["rates"][arm].values()) for one in found.values()] for arm in ARMS}
    print("| learnt | right of drawn answers to held-out questions, by seed | mean |\n|---|---|---:|")
    for arm, rates in means.items():
        print(f"| {arm} | {', '.join(f'{rate:.3f}' for rate in rates)} | {statistics.fmean(rates):.3f} |")
    for other in ("once", "drawn"):
        gains = [hard - rate for hard, rate in zip(means["hard"], means[other], strict=True)]
        print(f"hard over {other}: {', '.join(f'{gain:+.3f}' for gain in gains)}")
    for seed, one in found.items():
        print(f"seed {seed}: levels {one['levels']}, repeats {one['repeats']}")


if __name__ == "__main__":
    main()
