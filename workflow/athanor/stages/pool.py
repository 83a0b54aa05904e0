"""Choose the prompts of online RL: what no evaluation suite asks, and what is neither too easy nor too hard for the start."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from athanor.rl.judging import generator_of
from athanor.rl.online.contamination import Suites
from athanor.rl.online.families import Family
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE, Pooled
from athanor.rl.rollouts.sampling import Sampling
from athanor.stages.asking import Asked, Question

FAMILIES_FILE = "families.json"


def run(stage: StageRun) -> Outcome:
    """`pool.jsonl.gz`, `watched.jsonl.gz` (held-out prompts whose answers are kept through training) and `families.json`."""
    rule = stage.recipe.online.filter
    families, counters = _families(stage)
    kept = [prompt for family in families.values() for prompt in family.kept(rule)]
    counted = {name: family.counters(rule) for name, family in families.items()}
    if not kept:
        told = "; ".join(f"{family}: {counts}" for (_, family), counts in counted.items())
        raise StageError(
            f"no prompt is left to learn from online ({told}); fine-tune longer, lower online.filter.drop_up_to, raise "
            "online.pool or online.filter.floor, or add tasks to online.mixture"
        )
    for name, prompts in ((POOL_FILE, kept), (WATCHED_FILE, _watched(stage))):
        with JsonlWriter(stage.folder / name) as writer:
            for prompt in prompts:
                writer.write(prompt.row())
    rows = [{"task": task, "family": name, **counted[task, name], **_rate(family)} for (task, name), family in families.items()]
    write_json(stage.folder / FAMILIES_FILE, rows)
    left_out = [name for (_, name), counts in counted.items() if not counts["kept"]]
    if left_out:
        print(f"nothing to learn from: {', '.join(left_out)}", flush=True)
    total = {name: sum(counts[name] for counts in counted.values()) for name in next(iter(counted.values()))}
    learnt_from = {**counters, **total, "families": len(families) - len(left_out)}
    stage.spool.dataset("prompts", stage.fingerprint, "pool", "online", learnt_from)
    return Outcome((POOL_FILE, WATCHED_FILE, FAMILIES_FILE), learnt_from, {"kept": len(kept) / total["prompts"]})


def _families(stage: StageRun) -> tuple[dict[tuple[str, str], Family], dict[str, int]]:
    """All prompts by task and family, with what the start makes of them; and what it was asked for that."""
    online = stage.recipe.online
    encoder = ChatEncoder(stage.input_named("model").folder / MODEL_FOLDER)
    suites, fits = Suites(_asked_by_suites(stage), online.ngram), _fits(stage, encoder)
    found: dict[tuple[str, str], Family] = {}
    for task in online.mixture:
        for prompt in _prompts(stage, task, TRAINING_FILE, online.pool):
            family = found.setdefault((prompt.task, prompt.family), Family())
            family.prompts += 1
            if _says_special(prompt, encoder):
                family.special_tokens += 1
            elif suites.share(prompt.question):
                family.contaminated += 1
            elif not fits(prompt):
                family.too_long += 1
            else:
                family.fitting.append(prompt)
    judged = [prompt for family in found.values() for prompt in family.fitting if prompt.route is Route.VERIFIER]
    rates, counters = _pass_rates(stage, judged)
    for family in found.values():
        family.fitting = [replace(prompt, pass_rate=rates.get(prompt.id)) for prompt in family.fitting]
    return dict(sorted(found.items())), counters


def _rate(family: Family) -> dict[str, float]:
    rates = family.pass_rates
    return {"pass_rate": sum(rates.values()) / len(rates)} if rates else {}


def _prompts(stage: StageRun, task: str, file: str, most: int) -> Iterator[Pooled]:
    route = stage.recipe.online.routes.get(task, Route.VERIFIER)
    for conversation in islice(read_conversations(stage.input_named(task).folder / file), most or None):
        yield _pooled(task, route, conversation)


def _pooled(task: str, route: Route, conversation: Conversation) -> Pooled:
    messages, tools = question_of(conversation)
    family = generator_of(conversation.entry) if task == PROBLEMS else task
    name, entry = f"{task}/{conversation.id}", conversation.entry
    return Pooled(name, task, family, route, messages, tools, answer_of(conversation), entry)


def _says_special(prompt: Pooled, encoder: ChatEncoder) -> bool:
    """Whether a text of it holds the name of a special token, by which a turn would end where none does."""
    said = Conversation(prompt.id, [*prompt.messages, _on_record(prompt)], prompt.tools)
    return any(token in text for text in said.texts() for token in encoder.special)


def _fits(stage: StageRun, encoder: ChatEncoder) -> Callable[[Pooled], bool]:
    """Whether a prompt leaves room for an answer."""
    online = stage.recipe.online
    room = min(online.sequence_length, stage.recipe.model.max_sequence_length) - online.max_new_tokens
    return lambda prompt: len(encoder.prompt(prompt.messages, prompt.tools)) <= room


def _watched(stage: StageRun) -> list[Pooled]:
    """Held-out prompts of all tasks in turn."""
    tasks = [iter(_prompts(stage, task, HELD_OUT_FILE, stage.recipe.online.watched)) for task in stage.recipe.online.mixture]
    found: list[Pooled] = []
    while tasks and len(found) < stage.recipe.online.watched:
        turn = tasks.pop(0)
        if (prompt := next(turn, None)) is not None:
            found.append(prompt)
            tasks.append(turn)
    encoder = ChatEncoder(stage.input_named("model").folder / MODEL_FOLDER)
    fits = _fits(stage, encoder)
    return [prompt for prompt in found if not _says_special(prompt, encoder) and fits(prompt)]


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
