"""Ask a model of the mixture search the training questions of one task, several times each: how often each is answered right."""

from dataclasses import asdict
from itertools import groupby, islice

from athanor.artifacts.run import Outcome, StageRun
from athanor.data.conversations import TRAINING_FILE, read_conversations
from athanor.data.documents import JsonlWriter
from athanor.rl.browser import SAMPLES_FILE, write_samples
from athanor.rl.difficulty import PASS_RATES_FILE
from athanor.rl.rollouts.sampling import Sampling
from athanor.stages.asking import Asked, Question, rates


def run(stage: StageRun) -> Outcome:
    """`pass_rates.jsonl.gz`, a line a question, and `samples.html`; instance TASK."""
    settings = stage.recipe.sft.labels
    conversations = read_conversations(stage.input_named("conversations").folder / TRAINING_FILE)
    questions = (Question(stage.instance, conversation) for conversation in islice(conversations, settings.questions or None))
    asked = Asked(stage, questions, settings.max_new_tokens, "sft.labels.max_new_tokens")
    most, seed = settings.max_new_tokens, stage.recipe.seed
    sampling = Sampling(settings.samples, settings.temperature, max_new_tokens=most, seed=seed)
    answers = asked.sample(sampling, stage.folder / "shards", 0, len(asked.prompts))
    shown = []
    with JsonlWriter(stage.folder / PASS_RATES_FILE) as writer:
        for question, some in groupby(answers, key=lambda answer: answer.prompt):
            of_one = list(some)
            right = sum(answer.right for answer in of_one)
            writer.write({"id": question, "samples": len(of_one), "right": right})
            shown += [{**asdict(answer), "scores": {"pass_rate": right / len(of_one)}} for answer in of_one]
    write_samples(stage.folder / SAMPLES_FILE, f"{stage.recipe.name}: labels of {stage.instance}", shown)
    stage.spool.artifact(stage.folder / SAMPLES_FILE, SAMPLES_FILE)
    metrics = rates(answers)
    stage.spool.metrics(int(asked.model.counters.get("step", 0)), metrics)
    return Outcome(files=(PASS_RATES_FILE, SAMPLES_FILE), counters=asked.counters(answers), metrics=metrics)
