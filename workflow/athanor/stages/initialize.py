"""Stage initialize: fresh or imported weights, the start of pretraining and the model that scores stand beside."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.training.importing import import_start
from athanor.training.initialization import initialize


def run(stage: StageRun) -> Outcome:
    """Write the initial checkpoint."""
    if stage.recipe.pretrain.init_from:
        return import_start(stage, stage.recipe)
    return initialize(stage, stage.recipe)
