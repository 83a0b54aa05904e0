"""What a reward model is good for, downstream of benchmarks/polar.py: the best of N answers to problems, by its choice.

The base of the benchmark's policies learns to answer problems of two generators; what it then answers to others of the same kinds
is ranked (the answer on record, a right one, a wrong one), and a reward model is fine-tuned on the ranks of some of them. On
problems that nothing was trained on it chooses one of N answers, beside the answer on record.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from athanor.rewards.polar.accuracy import accuracy, wins
from athanor.rewards.polar.ranks import Ranked, Valued, rank_answers
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item
from athanor.rewards.verifiers import Judge
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Finish, Prompt, Sampling
from athanor.rl.rollouts.shards import Order, read_samples, roll_out

KINDS: dict[str, dict[str, int]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "number_filtering": {
        "min_numbers": 3, "max_numbers": 3, "min_decimals": 0, "max_decimals": 0, "min_value": 0, "max_value": 9,
    },
}  # fmt: skip
TAUGHT, RANKED, ASKED = 1000, 300, 200  # problems a kind: learnt from, ranked, and held out
SAMPLES, NEW_TOKENS, RANKS = 8, 16, 4  # answers a problem; tokens of one; ranks a problem
TEACHING_STEPS, TEACHING_ROWS, TEACHING_LR = 250, 32, 2e-3


@dataclass(frozen=True)
class Problem:
    """A question, its answer on record, and what the verifier wants to know."""

    id: str
    question: str
    answer: str
    entry: dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """A problem, N answers to it, and which of them are right."""

    problem: Problem
    answers: tuple[str, ...]
    right: tuple[bool, ...]


def problems(begin: int, end: int, seed: int) -> list[Problem]:
    """Problems `begin` … `end` - 1 of every kind, in turns; none that was asked before `begin`."""
    import reasoning_gym

    found = []
    for name, options in KINDS.items():
        made, asked = reasoning_gym.create_dataset(name, size=10 * end, seed=seed, **options), set[str]()
        for entry in made:
            question = entry["question"].strip()
            if question in asked:
                continue
            asked.add(question)
            if begin < len(asked) <= end:
                found.append(Problem(f"{name}/{len(asked)}", question, str(entry["answer"]).strip(), entry))
    return sorted(found, key=lambda problem: (int(problem.id.split("/")[1]), problem.id))


def teach(base: Path, folder: Path, taught: Sequence[Problem], seed: int) -> None:
    """The base, fine-tuned to answer: a folder with its tokenizer, kept where it is there."""
    if (folder / "config.json").is_file():
        return
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model: Any = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    rows = []
    for problem in taught:
        asked, said = (tokenizer.encode(text, add_special_tokens=False) for text in (_asked(problem), problem.answer))
        rows.append((asked, [*said, tokenizer.eos_token_id]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=TEACHING_LR, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(TEACHING_STEPS):
        drawn = np.random.default_rng([seed, step]).integers(len(rows), size=TEACHING_ROWS)
        width = max(len(asked) + len(said) for asked, said in (rows[number] for number in drawn))
        ids, labels = torch.full((TEACHING_ROWS, width), tokenizer.pad_token_id), torch.full((TEACHING_ROWS, width), -100)
        for place, (asked, said) in enumerate(rows[number] for number in drawn):
            ids[place, : len(asked) + len(said)] = torch.tensor([*asked, *said])
            labels[place, len(asked) : len(asked) + len(said)] = torch.tensor(said)
        for group in optimizer.param_groups:
            group["lr"] = TEACHING_LR * min(1, (step + 1) / 20) * max(0.1, 1 - step / TEACHING_STEPS)
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()  # what is filled up lies behind all that counts
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def try_all(model: Path, some: Sequence[Problem], folder: Path, seed: int) -> list[Tried]:
    """N drawn answers to every problem, judged by its verifier; shards below `folder` are kept."""
    tokenizer, judge = PreTrainedTokenizerFast.from_pretrained(model), Judge()
    prompts = [Prompt(p.id, tuple(tokenizer.encode(_asked(p), add_special_tokens=False))) for p in some]
    order = Order(model.name, Sampling(SAMPLES, max_new_tokens=NEW_TOKENS, seed=seed))
    shards = roll_out(prompts, order, lambda: InProcessEngine(model, [tokenizer.eos_token_id]), folder, lambda *_: None)
    known = {problem.id: problem for problem in some}
    said: dict[str, list[tuple[str, bool]]] = {}
    for sample in read_samples(shards):
        text, problem = tokenizer.decode(sample.tokens, skip_special_tokens=True).strip(), known[sample.prompt]
        right = sample.finish is Finish.STOP and judge.is_right(text, problem.answer, problem.entry)
        said.setdefault(sample.prompt, []).append((text, right))
    return [Tried(known[name], *map(tuple, zip(*answers, strict=True))) for name, answers in said.items()]  # type: ignore[arg-type]


def ranks_of(tried: Sequence[Tried], seed: int) -> list[Ranked]:
    """Of every problem that was answered rightly and wrongly."""
    ranks = []
    for one in tried:
        p, valued = one.problem, [Valued(text, float(right)) for text, right in zip(one.answers, one.right, strict=True)]
        ranks += rank_answers(p.id, p.question, p.answer, valued, RANKS, seed)
    return ranks


def chosen(reward: Path, tried: Sequence[Tried], ranks: Sequence[Ranked]) -> dict[str, Any]:
    """The share of problems whose best answer by the model is right, and of held-out ranks in the right order."""
    scorer = Scorer(reward)
    items = [Item(one.problem.question, one.problem.answer, text) for one in tried for text in one.answers]
    scores = np.array(scorer.score_items(items)).reshape(len(tried), SAMPLES)
    right = np.array([one.right for one in tried], dtype=np.float64)
    # Equal texts have equal scores up to what is padded beside them: of the near-best, the mean.
    best = scores >= scores.max(1, keepdims=True) - 1e-5
    taken = (right * best).sum(1) / best.sum(1)
    pairs = np.array([scorer.score_items([Item(r.prompt, r.answers[0], text) for text in r.answers[1:]]) for r in ranks])
    order = accuracy(wins(pairs[:, 0], pairs[:, 1]), [rank.id.partition("#")[0] for rank in ranks], 0)
    return {"best_of_n": _rate(taken), "ranks": asdict(order)}


def bounds(tried: Sequence[Tried]) -> dict[str, Any]:
    """Any one of N answers, and a right one wherever there is one."""
    right = np.array([one.right for one in tried], dtype=np.float64)
    return {"random": _rate(right.mean(1)), "oracle": _rate(right.max(1))}


def _rate(by_problem: Any) -> dict[str, Any]:
    return asdict(accuracy(by_problem, list(range(len(by_problem))), 0))


def _asked(problem: Problem) -> str:
    return f"{problem.question}\nanswer: "
