"""Fresh weights as a checkpoint: where pretraining starts, and the untrained model that scores are compared with."""

from functools import partial

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.models.language_model import build_language_model
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Parallel
from athanor.training import checkpoints
from athanor.training.checkpoints import FINAL, Position, State
from athanor.training.layout import process_groups
from athanor.training.sharded_state import save_weights


def initialize(stage: StageRun, recipe: Recipe) -> Outcome:
    """Draw the weights from `recipe.seed` in float32 on one rank, so that they do not depend on any layout."""
    if stage.world_size != 1:
        raise StageError(f"stage initialize runs on one rank, it was started on {stage.world_size}")
    parallel = Parallel()
    with process_groups(parallel, recipe.seed) as layout:
        [model] = build_language_model(recipe.model, parallel)
        parameters = sum(weight.numel() for weight in model.parameters())
        write = partial(save_weights, [model])
        checkpoints.save(stage.folder / FINAL, write, State(Position(), layout.recorded(), optimizer=False))
    return Outcome(files=(FINAL,), counters={"step": 0, "tokens": 0, "samples": 0, "parameters": parameters})
