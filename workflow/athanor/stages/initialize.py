"""Stage initialize: fresh weights, the start of pretraining and the untrained model that scores stand beside."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.training.initialization import initialize


def run(stage: StageRun) -> Outcome:
    """Write the initial checkpoint."""
    return initialize(stage, stage.recipe)
