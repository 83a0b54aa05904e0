"""Pair a right and a wrong answer of the fine-tuned model to each of a task's questions."""

from dataclasses import asdict

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.conversations import TRAINING_FILE, question_of, read_conversations
from athanor.data.documents import JsonlWriter
from athanor.rl.preferences import PAIRS_FILE, Pair, pair_answers
from athanor.stages.selection import candidates_of


def run(stage: StageRun) -> Outcome:
    """`pairs.jsonl.gz`, in the order of the questions; instance TASK."""
    rolled = stage.input_named("rollouts")
    paired = pair_answers(candidates_of(rolled, stage.recipe.offline.weights))
    counters = paired.counters()
    if not paired.pairs:
        raise StageError(
            f"{stage.instance}: no question has a right and a wrong answer ({paired.never_right} were never answered right, "
            f"{paired.always_right} always); raise offline.samples, fine-tune longer, or leave {stage.instance} out of "
            "offline.mixture"
        )
    with JsonlWriter(stage.folder / PAIRS_FILE) as writer:
        for conversation in read_conversations(stage.input_named("conversations").folder / TRAINING_FILE):
            if (pair := paired.pairs.get(conversation.id)) is not None:
                messages, tools = question_of(conversation)
                writer.write(asdict(Pair(conversation.id, messages, tools, *(answer.text for answer in pair))))
    stage.spool.dataset(stage.instance, stage.fingerprint, "rollouts", "preference", {"policy": rolled.instance, **counters})
    return Outcome((PAIRS_FILE,), counters)
