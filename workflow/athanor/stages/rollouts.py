"""Ask a fine-tuned model the training questions of one task, several times each, and score every answer."""

import json
from dataclasses import asdict
from itertools import islice

from athanor.artifacts.run import Outcome, StageRun
from athanor.data.conversations import TRAINING_FILE, read_conversations
from athanor.rewards.scores import Rules
from athanor.rl.browser import SAMPLES_FILE, write_samples
from athanor.rl.rollouts.sampling import Finish, Sampling
from athanor.stages.asking import Asked, Question, rates

SCORED_FILE = "scored.jsonl"


def run(stage: StageRun) -> Outcome:
    """`scored.jsonl`, a line an answer, and `samples.html`; instance TASK-MODEL."""
    settings, task = stage.recipe.offline, stage.instance.partition("-")[0]
    conversations = read_conversations(stage.input_named("conversations").folder / TRAINING_FILE)
    questions = [Question(task, conversation) for conversation in islice(conversations, settings.prompts)]
    asked = Asked(stage, questions, settings.max_new_tokens, "offline.max_new_tokens")
    sampling = Sampling(
        settings.samples, settings.temperature, settings.top_p, settings.top_k, settings.max_new_tokens, stage.recipe.seed
    )
    answers = asked.sample(sampling, stage.folder / "shards", 0, len(asked.prompts))
    rules = Rules(settings.forbidden)
    scored = []
    for answer in answers:
        scores = rules.score(answer.text, right=answer.right, whole=answer.finish is Finish.STOP)
        scored.append({**asdict(answer), "scores": scores.row()})
    lines = (json.dumps(row, ensure_ascii=False) for row in scored)
    (stage.folder / SCORED_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_samples(stage.folder / SAMPLES_FILE, f"{stage.recipe.name}: {stage.instance}", scored)
    stage.spool.artifact(stage.folder / SAMPLES_FILE, SAMPLES_FILE)
    metrics = rates(answers)
    stage.spool.metrics(int(asked.model.counters.get("step", 0)), metrics)
    counters = {**asked.counters(answers), "tokens": sum(answer.tokens for answer in answers)}
    return Outcome(files=(SCORED_FILE, SAMPLES_FILE), counters=counters, metrics=metrics)
