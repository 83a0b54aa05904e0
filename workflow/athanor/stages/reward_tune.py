"""Fine-tune a reward model on ranks of answers."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.stages.ranks import ASIDE_FILE, LEARNT_FILE
from athanor.stages.reward_training import Lesson, ranks_of, train_on


def run(stage: StageRun) -> Outcome:
    """From the model that was trained on triples, or (instance `alone`) from the backbone: the same ranks in the same order."""
    folder = stage.input_named("ranks").folder
    held_out = {"ranks_aside": ranks_of(folder / ASIDE_FILE)}
    return train_on(stage, Lesson(ranks_of(folder / LEARNT_FILE), held_out, fine_tuned=True))
