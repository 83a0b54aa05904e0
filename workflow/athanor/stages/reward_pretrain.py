"""Train a reward model to tell the roster's policies apart."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.stages.reward_training import Lesson, train_on, triples_of
from athanor.stages.triples import TRAIN_FILE


def run(stage: StageRun) -> Outcome:
    """From the backbone `start`, on the triples of the policies that are not the test's."""
    return train_on(stage, Lesson(triples_of(stage, TRAIN_FILE), {}, fine_tuned=False))
