"""Ask a model the held-out questions of the fine-tuning tasks, and count which answers are right."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageRun
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, Conversation, answer_of, read_conversations
from athanor.recipe.graph import PROBLEMS
from athanor.rl.answers import RATES_FILE, Answer, PassRate, pass_rates
from athanor.rl.browser import SAMPLES_FILE, write_samples
from athanor.rl.judging import generator_of
from athanor.rl.rollouts.sampling import Sampling
from athanor.stages.asking import Asked, Question, said_by

ANSWERS_FILE = "answers.jsonl"
GREEDY, SAMPLED = "greedy", "sampled"


def run(stage: StageRun) -> Outcome:
    """`answers.jsonl`, `pass_rates.json` and `samples.html`: the likeliest answer to every question, and some that are drawn."""
    settings, tasks = stage.recipe.sft.answers, [*sorted(stage.recipe.sft.mixture), *stage.inputs.keys() & {PROBLEMS}]
    folders = {task: stage.input_named(task).folder for task in tasks}
    questions = [question for task, folder in folders.items() for question in _held_out(task, folder, settings.prompts)]
    asked = Asked(stage, questions, settings.max_new_tokens, "sft.answers.max_new_tokens")
    ways = {
        GREEDY: Sampling(1, 0.0, max_new_tokens=settings.max_new_tokens),
        SAMPLED: Sampling(settings.samples, max_new_tokens=settings.max_new_tokens, seed=stage.recipe.seed),
    }
    count = len(asked.prompts)
    found = {
        way: asked.sample(sampling, stage.folder / "shards" / way, number * count, len(ways) * count)
        for number, (way, sampling) in enumerate(ways.items())
    }
    constant = {name: rate for task, folder in folders.items() for name, rate in _constant(task, folder, asked).items()}
    asked.judge.close()
    rates = {way: pass_rates(answers, constant) for way, answers in found.items()}
    counters = {"questions": count, "too_long": asked.too_long, "verifier_errors": asked.judge.broken}
    return _outcome(stage, found, rates, int(asked.model.counters.get("step", 0)), counters)


def _held_out(task: str, folder: Path, most: int) -> Iterator[Question]:
    """At most so many of a task, or of each generator of the registry's problems, which count as tasks by themselves."""
    asked: Counter[str] = Counter()
    for conversation in read_conversations(folder / HELD_OUT_FILE):
        name = _name(task, conversation)
        asked[name] += 1
        if asked[name] <= most:
            yield Question(name, conversation)


def _name(task: str, conversation: Conversation) -> str:
    return generator_of(conversation.entry) if task == PROBLEMS else task


def _constant(task: str, folder: Path, asked: Asked) -> dict[str, float]:
    """The share of questions that the commonest answer of the training conversations answers rightly, by task; 0 without any."""
    said: dict[str, Counter[str]] = {}
    for conversation in read_conversations(folder / TRAINING_FILE):
        said.setdefault(_name(task, conversation), Counter())[answer_of(conversation)] += 1
    found = {}
    for name, counts in said.items():
        commonest = min(counts, key=lambda answer: (-counts[answer], answer))
        questions = [question.conversation for question in asked.questions.values() if question.task == name]
        verdicts = asked.judge.judge([said_by(conversation, commonest) for conversation in questions])
        found[name] = sum(verdict.right for verdict in verdicts) / max(1, len(questions))
    return found


def _outcome(
    stage: StageRun,
    found: Mapping[str, list[Answer]],
    rates: Mapping[str, list[PassRate]],
    step: int,
    counters: Mapping[str, int],
) -> Outcome:
    everything = [(way, answer) for way, answers in found.items() for answer in answers]
    lines = (json.dumps({"way": way, **asdict(answer)}, ensure_ascii=False) for way, answer in everything)
    (stage.folder / ANSWERS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_json(stage.folder / RATES_FILE, {way: [asdict(rate) for rate in some] for way, some in rates.items()})
    write_samples(
        stage.folder / SAMPLES_FILE,
        f"{stage.recipe.name}: answers of {stage.instance}",
        [asdict(answer) for answer in found[SAMPLED]],
    )
    stage.spool.artifact(stage.folder / SAMPLES_FILE, SAMPLES_FILE)
    metrics = {f"{rate.task}/{way}_pass_rate": rate.rate for way, some in rates.items() for rate in some}
    metrics |= {f"{rate.task}/{way}_cut": rate.cut for way, some in rates.items() for rate in some}
    stage.spool.metrics(step, metrics)
    counted = {**counters, "answers": len(everything)}
    return Outcome(files=(ANSWERS_FILE, RATES_FILE, SAMPLES_FILE), counters=counted, metrics=metrics)
