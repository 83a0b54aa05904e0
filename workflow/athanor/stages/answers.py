"""Ask a model the held-out questions of the fine-tuning tasks, and count which answers are right."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, Conversation, answer_of, question_of, read_conversations
from athanor.rewards.verifiers import Judge
from athanor.rl.answers import RATES_FILE, Answer, PassRate, pass_rates
from athanor.rl.browser import SAMPLES_FILE, write_samples
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Finish, Prompt, Sampling
from athanor.rl.rollouts.shards import Order, read_samples, roll_out

ANSWERS_FILE = "answers.jsonl"
MODEL = "model"
GREEDY, SAMPLED = "greedy", "sampled"


def run(stage: StageRun) -> Outcome:
    """`answers.jsonl`, `pass_rates.json` and `samples.html`: the likeliest answer to every question, and some that are drawn."""
    settings, model = stage.recipe.sft.answers, stage.input_named(MODEL)
    encoder = ChatEncoder(model.folder / MODEL)
    asked = {
        (task, conversation.id): conversation
        for task in sorted(stage.recipe.sft.mixture)
        for conversation in _held_out(stage.input_named(task).folder, settings.prompts)
    }
    room = stage.recipe.model.max_sequence_length - settings.max_new_tokens
    prompts = [Prompt(f"{task}/{name}", encoder.prompt(*question_of(asked[task, name]))) for task, name in asked]
    fitting = [prompt for prompt in prompts if len(prompt.tokens) <= room]
    if not fitting:
        raise StageError(f"no question leaves room for sft.answers.max_new_tokens={settings.max_new_tokens}; lower it")
    ways = {
        GREEDY: Sampling(1, 0.0, max_new_tokens=settings.max_new_tokens),
        SAMPLED: Sampling(settings.samples, max_new_tokens=settings.max_new_tokens, seed=stage.recipe.seed),
    }

    def engine() -> InProcessEngine:
        return InProcessEngine(model.folder / MODEL, encoder.ends)

    judge, found = Judge(), dict[str, list[Answer]]()
    for number, (way, sampling) in enumerate(ways.items()):

        def progress(done: int, total: int, before: int = number * len(fitting)) -> None:
            stage.progress(before + done, total * len(ways), "questions")
            if stage.stop_requested and before + done < total * len(ways):
                raise Stopped(f"answers of {stage.instance} after {before + done} questions; finished shards are kept")

        order = Order(model.fingerprint, sampling)
        shards = roll_out(fitting, order, engine, stage.folder / "shards" / way, progress)
        found[way] = _answers(asked, encoder, shards, judge)
    constant = {task: _constant(stage.input_named(task).folder, task, asked, judge) for task in sorted(stage.recipe.sft.mixture)}
    rates = {way: pass_rates(answers, constant) for way, answers in found.items()}
    counters = {"too_long": len(prompts) - len(fitting), "verifier_errors": judge.broken}
    return _outcome(stage, found, rates, int(model.counters.get("step", 0)), counters)


def _held_out(folder: Path, most: int) -> list[Conversation]:
    return list(islice(read_conversations(folder / HELD_OUT_FILE), most))


def _answers(
    asked: Mapping[tuple[str, str], Conversation], encoder: ChatEncoder, shards: list[Path], judge: Judge
) -> list[Answer]:
    answers = []
    for sample in read_samples(shards):
        task, _, name = sample.prompt.partition("/")
        conversation = asked[task, name]
        question, expected = question_of(conversation)[0][-1]["content"], answer_of(conversation)
        log_prob = sum(sample.log_probs) / len(sample.log_probs)
        said, size = encoder.decode(sample.tokens), len(sample.tokens)
        right = sample.finish is Finish.STOP and judge.is_right(said, expected, conversation.entry)
        answers.append(Answer(task, name, sample.number, question, said, expected, sample.finish, size, log_prob, right))
    return answers


def _constant(folder: Path, task: str, asked: Mapping[tuple[str, str], Conversation], judge: Judge) -> float:
    """The share of a task's questions that the commonest answer of its training conversations answers rightly."""
    said = Counter(answer_of(conversation) for conversation in read_conversations(folder / TRAINING_FILE))
    commonest = min(said, key=lambda answer: (-said[answer], answer))
    questions = [conversation for (of, _), conversation in asked.items() if of == task]
    return sum(judge.is_right(commonest, answer_of(c), c.entry) for c in questions) / len(questions)


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
    write_samples(stage.folder / SAMPLES_FILE, f"{stage.recipe.name}: answers of {stage.instance}", found[SAMPLED])
    stage.spool.artifact(stage.folder / SAMPLES_FILE, SAMPLES_FILE)
    metrics = {f"{rate.task}/{way}_pass_rate": rate.rate for way, some in rates.items() for rate in some}
    metrics |= {f"{rate.task}/{way}_cut": rate.cut for way, some in rates.items() for rate in some}
    stage.spool.metrics(step, metrics)
    counted = {"questions": len(found[GREEDY]), "answers": len(everything), **counters}
    return Outcome(files=(ANSWERS_FILE, RATES_FILE, SAMPLES_FILE), counters=counted, metrics=metrics)
