"""What fine-tuning is to learn of a task: its questions labelled by difficulty, some levels left out and others repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.conversations import (
    HELD_OUT_FILE,
    TRAINING_FILE,
    Conversation,
    other_phrasings,
    question_of,
    read_conversations,
)
from athanor.data.documents import JsonlWriter, read_rows
from athanor.data.sources.reading import reading
from athanor.recipe.schema.choices import Difficulty
from athanor.rl.difficulty import DIFFICULTY_FILE, LABELS_FILE, PASS_RATES_FILE, Graded, grade


def run(stage: StageRun) -> Outcome:
    """`train.jsonl.gz`, everything once, then repeats; `labels.jsonl.gz`, a line a question; `difficulty.json`, the counts."""
    settings, made = stage.recipe.sft.labels, stage.input_named("conversations").folder
    rows = read_rows(stage.input_named("labels").folder / PASS_RATES_FILE)
    rates = {row["id"]: row["right"] / row["samples"] for row in rows}
    graded = grade(rates, settings)
    learnt = [c for c in read_conversations(made / TRAINING_FILE) if c.id not in graded.dropped]
    if not learnt:
        raise StageError(
            f"{stage.instance}: nothing is left to learn from, all {len(rates)} questions are of sft.labels.drop; raise "
            "sft.labels.floor, or drop fewer levels"
        )
    times = {c.id: settings.repeats.get(graded.levels[c.id], 1) for c in learnt if c.id in graded.levels}
    often = {c.id: c for c in learnt if times.get(c.id, 1) > 1}
    ways = _ways(stage, often, [*learnt, *read_conversations(made / HELD_OUT_FILE)])
    repeats = repeats_of(often, times, ways)
    with JsonlWriter(stage.folder / TRAINING_FILE) as writer:
        for conversation in (*learnt, *repeats):
            writer.write(conversation.row())
    with JsonlWriter(stage.folder / LABELS_FILE) as writer:
        for question, level in graded.levels.items():
            writer.write({"id": question, "pass_rate": rates[question], "difficulty": level})
    rephrased = sum(c.messages != often[c.id].messages for c in repeats)
    counts = {"repeats": len(repeats), "rephrased": rephrased, "unlabelled": len(learnt) - len(times)}
    return _outcome(stage, graded, sum(rates.values()) / len(rates), {"conversations": len(learnt) + len(repeats), **counts})


def _ways(stage: StageRun, often: Mapping[str, Conversation], asked: Sequence[Conversation]) -> dict[str, list[Conversation]]:
    """The other phrasings of what is repeated, out of the task's source, without those that ask what is asked anyway."""
    task = stage.recipe.sft.tasks[stage.instance]
    if not often or all(len(turn.prompts) == 1 for turn in task.turns):
        return {}
    questions = [question_of(conversation)[0] for conversation in asked]
    with reading(stage, stage.recipe.data.sources[task.source]) as read:
        tokens = stage.recipe.tokenizer.special_tokens
        found = other_phrasings(read.opened.records, task, often, tokens, read.progress)
    known = {str(question) for question in questions}
    return {
        name: [other for other in others if str(question_of(other)[0]) not in known or _asks_alike(other, often[name])]
        for name, others in found.items()
    }


def _asks_alike(one: Conversation, other: Conversation) -> bool:
    """Whether two phrasings differ behind the first answer alone."""
    return question_of(one)[0] == question_of(other)[0]


def repeats_of(
    often: Mapping[str, Conversation], times: Mapping[str, int], ways: Mapping[str, Sequence[Conversation]]
) -> list[Conversation]:
    """Every second time, every third and so on, so that no window has one question twice while others fill it."""
    repeats = []
    for repeat in range(1, max(times.values(), default=1)):
        for name, conversation in often.items():
            if repeat < times[name]:
                phrasings = [conversation, *ways.get(name, ())]
                repeats.append(replace(phrasings[repeat % len(phrasings)], repeat=repeat))
    return repeats


def _outcome(stage: StageRun, graded: Graded, pass_rate: float, counts: Mapping[str, int]) -> Outcome:
    levels = {level.value: graded.count(level) for level in Difficulty}
    counters = {
        **counts,
        "labelled": len(graded.levels),
        **levels,
        "dropped": len(graded.dropped),
        "kept_by_floor": graded.spared,
    }
    write_json(stage.folder / DIFFICULTY_FILE, {**counters, "pass_rate": pass_rate})
    metrics = {"pass_rate": pass_rate, **{level: count / len(graded.levels) for level, count in levels.items()}}
    stage.spool.metrics(0, metrics)
    taxonomy = "/".join(stage.recipe.sft.tasks[stage.instance].taxonomy)
    profile = {**counters, "taxonomy": taxonomy, "labelled_by": stage.recipe.sft.labels.by}
    stage.spool.dataset(stage.instance, stage.fingerprint, "conversations", "sft", profile)
    return Outcome(files=(TRAINING_FILE, LABELS_FILE, DIFFICULTY_FILE), counters=counters, metrics=metrics)
