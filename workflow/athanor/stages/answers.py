"""Ask a model the held-out questions of the fine-tuning tasks, and count which answers are right."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageRun
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, answer_of, read_conversations
from athanor.rl.answers import RATES_FILE, Answer, PassRate, pass_rates
from athanor.rl.browser import SAMPLES_FILE, write_samples
from athanor.rl.rollouts.sampling import Sampling
from athanor.stages.asking import Asked, Question

ANSWERS_FILE = "answers.jsonl"
GREEDY, SAMPLED = "greedy", "sampled"


def run(stage: StageRun) -> Outcome:
    """`answers.jsonl`, `pass_rates.json` and `samples.html`: the likeliest answer to every question, and some that are drawn."""
    settings, tasks = stage.recipe.sft.answers, sorted(stage.recipe.sft.mixture)
    folders = {task: stage.input_named(task).folder for task in tasks}
    questions = [
        Question(task, conversation)
        for task, folder in folders.items()
        for conversation in islice(read_conversations(folder / HELD_OUT_FILE), settings.prompts)
    ]
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
    constant = {task: _constant(task, folder, asked) for task, folder in folders.items()}
    rates = {way: pass_rates(answers, constant) for way, answers in found.items()}
    counters = {"questions": count, "too_long": asked.too_long, "verifier_errors": asked.judge.broken}
    return _outcome(stage, found, rates, int(asked.model.counters.get("step", 0)), counters)


def _constant(task: str, folder: Path, asked: Asked) -> float:
    """The share of a task's questions that the commonest answer of its training conversations answers rightly; 0 without any."""
    said = Counter(answer_of(conversation) for conversation in read_conversations(folder / TRAINING_FILE))
    commonest = min(said, key=lambda answer: (-said[answer], answer))
    questions = [question.conversation for question in asked.questions.values() if question.task == task]
    right = sum(asked.judge.is_right(commonest, answer_of(c), c.entry) for c in questions)
    return right / max(1, len(questions))


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
