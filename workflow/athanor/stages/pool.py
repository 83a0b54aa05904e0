"""Choose the prompts of online RL: what no evaluation suite asks, and what is neither too easy nor too hard for the start."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import (
    HELD_OUT_FILE,
    TRAINING_FILE,
    Conversation,
    answer_of,
    question_of,
    read_conversations,
)
from athanor.data.documents import JsonlWriter
from athanor.evaluation.suites import SUITES_FOLDER
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.graph import PROBLEMS
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.post_training import PassRateFilter
from athanor.rl.judging import generator_of
from athanor.rl.online.contamination import Suites
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE, Pooled
from athanor.rl.rollouts.sampling import Sampling
from athanor.rl.selection import lot
from athanor.stages.asking import Asked, Question

FAMILIES_FILE = "families.json"


def run(stage: StageRun) -> Outcome:
    """`pool.jsonl.gz`, `watched.jsonl.gz` (held-out prompts whose answers are kept through training) and `families.json`."""
    online, mixture = stage.recipe.online, stage.recipe.online.mixture
    suites = Suites(_asked_by_suites(stage), online.ngram)
    found = {task: list(_prompts(stage, task, TRAINING_FILE, online.pool)) for task in mixture}
    clean = [prompt for prompts in found.values() for prompt in prompts if not suites.share(prompt.question)]
    fitting = _fitting(stage, clean)
    rates, counters = _pass_rates(stage, [prompt for prompt in fitting if prompt.route is Route.VERIFIER])
    families = {name: _Family(Counter()) for name in sorted({(p.task, p.family) for some in found.values() for p in some})}
    for prompts in found.values():
        for prompt in prompts:
            families[prompt.task, prompt.family].counts["prompts"] += 1
    for prompt in clean:
        families[prompt.task, prompt.family].counts["clean"] += 1
    for prompt in fitting:
        family = families[prompt.task, prompt.family]
        family.fitting.append(prompt if prompt.id not in rates else replace(prompt, pass_rate=rates[prompt.id]))
    kept = [prompt for family in families.values() for prompt in family.kept(online.filter)]
    if not kept:
        told = "; ".join(f"{family}: {dict(found.counts)}" for (_, family), found in families.items())
        raise StageError(
            f"no prompt is left to learn from online ({told}); fine-tune longer, lower online.filter.drop_up_to, raise "
            "online.pool or online.filter.floor, or add tasks to online.mixture"
        )
    with JsonlWriter(stage.folder / POOL_FILE) as writer:
        for prompt in kept:
            writer.write(prompt.row())
    with JsonlWriter(stage.folder / WATCHED_FILE) as writer:
        for prompt in _watched(stage):
            writer.write(prompt.row())
    rows = [{"task": task, "family": name, **family.told()} for (task, name), family in families.items()]
    write_json(stage.folder / FAMILIES_FILE, rows)
    total = Counter[str]()
    for family in families.values():
        total.update(family.counts)
    left_out = [name for (_, name), family in families.items() if not family.counts["kept"]]
    if left_out:
        print(f"nothing to learn from: {', '.join(left_out)}", flush=True)
    learnt_from = {**counters, **total, "families": len(families) - len(left_out)}
    stage.spool.dataset("prompts", stage.fingerprint, "pool", "online", learnt_from)
    return Outcome((POOL_FILE, WATCHED_FILE, FAMILIES_FILE), learnt_from, {"kept": len(kept) / total["prompts"]})


@dataclass
class _Family:
    """The prompts of one task, or of one generator of the registry, and what became of them."""

    counts: Counter[str]
    fitting: list[Pooled] = field(default_factory=list)

    def kept(self, rule: PassRateFilter) -> list[Pooled]:
        """Those that are learnt from. Of the ones ever answered right a share is kept in any case, the least hard first."""
        rated = {prompt.id: prompt.pass_rate for prompt in self.fitting if prompt.pass_rate is not None}
        ever = {name: rate for name, rate in rated.items() if rate}
        easy = {name for name, rate in ever.items() if rate >= rule.drop_from}
        hard = sorted(
            {name for name, rate in ever.items() if rate <= rule.drop_up_to} - easy, key=lambda n: (-ever[n], lot(n, 0))
        )
        missing = max(0, round(rule.floor * len(ever)) - (len(ever) - len(easy) - len(hard)))
        gone = easy | set(hard[missing:]) | (rated.keys() - ever.keys())
        kept = [prompt for prompt in self.fitting if prompt.id not in gone]
        spared = min(missing, len(hard))
        clean = self.counts.pop("clean", 0)
        numbers = {"contaminated": self.counts["prompts"] - clean, "too_long": clean - len(self.fitting)}
        numbers |= {"unanswered": len(rated) - len(ever)}
        self.counts.update(numbers | {"easy": len(easy), "hard": len(hard) - spared, "spared": spared, "kept": len(kept)})
        return kept

    def told(self) -> dict[str, float | int]:
        """The counts, and how often the start is right."""
        rates = [prompt.pass_rate for prompt in self.fitting if prompt.pass_rate is not None]
        return {**self.counts, **({"pass_rate": sum(rates) / len(rates)} if rates else {})}


def _prompts(stage: StageRun, task: str, file: str, most: int) -> Iterator[Pooled]:
    route = stage.recipe.online.routes.get(task, Route.VERIFIER)
    for conversation in islice(read_conversations(stage.input_named(task).folder / file), most or None):
        yield _pooled(task, route, conversation)


def _pooled(task: str, route: Route, conversation: Conversation) -> Pooled:
    messages, tools = question_of(conversation)
    family = generator_of(conversation.entry) if task == PROBLEMS else task
    name, entry = f"{task}/{conversation.id}", conversation.entry
    return Pooled(name, task, family, route, messages, tools, answer_of(conversation), entry)


def _fitting(stage: StageRun, prompts: Sequence[Pooled]) -> list[Pooled]:
    """Those that leave room for an answer."""
    online, encoder = stage.recipe.online, ChatEncoder(stage.input_named("model").folder / MODEL_FOLDER)
    room = min(online.sequence_length, stage.recipe.model.max_sequence_length) - online.max_new_tokens
    return [prompt for prompt in prompts if len(encoder.prompt(prompt.messages, prompt.tools)) <= room]


def _watched(stage: StageRun) -> list[Pooled]:
    """Held-out prompts of all tasks in turn."""
    tasks = [iter(_prompts(stage, task, HELD_OUT_FILE, stage.recipe.online.watched)) for task in stage.recipe.online.mixture]
    found: list[Pooled] = []
    while tasks and len(found) < stage.recipe.online.watched:
        turn = tasks.pop(0)
        if (prompt := next(turn, None)) is not None:
            found.append(prompt)
            tasks.append(turn)
    return _fitting(stage, found)


def _pass_rates(stage: StageRun, prompts: Sequence[Pooled]) -> tuple[Mapping[str, float], dict[str, int]]:
    """How often the start answers each right, and what was asked; nothing without probes."""
    online = stage.recipe.online
    if not online.probes or not prompts:
        return {}, {}
    questions = [
        Question(prompt.task, Conversation(prompt.id, [*prompt.messages, _on_record(prompt)], prompt.tools, prompt.entry))
        for prompt in prompts
    ]
    asked = Asked(stage, questions, online.max_new_tokens, "online.max_new_tokens")
    sampling = Sampling(online.probes, max_new_tokens=online.max_new_tokens, seed=stage.recipe.seed)
    answers = asked.sample(sampling, stage.folder / "shards", 0, len(asked.prompts))
    asked.judge.close()
    right: Counter[str] = Counter({answer.prompt: 0 for answer in answers})
    right.update(answer.prompt for answer in answers if answer.right)
    return {name: count / online.probes for name, count in right.items()}, asked.counters(answers)


def _on_record(prompt: Pooled) -> dict[str, str]:
    return {"role": "assistant", "content": prompt.expected}


def _asked_by_suites(stage: StageRun) -> Iterator[str]:
    """Every question of the suites that the last milestone was asked; documents that are merely read ask nothing."""
    if "suites" not in stage.inputs:
        return
    folder: Path = stage.input_named("suites").folder / SUITES_FOLDER
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if (question := json.loads(line).get("prompt")) is not None:
                yield str(question)
