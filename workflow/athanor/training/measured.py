"""What weights that nobody trained here are worth on held-out text, by the same passes as while training."""

from collections.abc import Mapping
from pathlib import Path

from athanor.artifacts.run import StageError, StageRun
from athanor.models.language_model import build_language_model
from athanor.models.precision import Bf16Layers, PrecisionError
from athanor.recipe.schema.training import Training
from athanor.training.checkpoints import damage
from athanor.training.held_out import DomainLoss, HeldOut
from athanor.training.layout import process_groups
from athanor.training.optimizer import build_learner
from athanor.training.sharded_state import load_weights
from athanor.training.validation import validate


def measure(stage: StageRun, settings: Training, checkpoint: Path, held_out: Mapping[str, HeldOut]) -> dict[str, DomainLoss]:
    """By domain, on all ranks together; in the layout and precision of `settings`."""
    with process_groups(settings.parallel, stage.recipe.seed) as layout:
        try:
            chunks = build_language_model(stage.recipe.model, settings.parallel, settings.precision, Bf16Layers.of(settings))
        except PrecisionError as error:
            raise StageError(str(error)) from error
        if found := damage(checkpoint):
            raise StageError(f"{checkpoint} is damaged ({found[0]}); delete it, and it is made again")
        learner = build_learner(chunks, settings.optimizer, layout)
        load_weights(learner, checkpoint)
        return validate(learner, held_out)
