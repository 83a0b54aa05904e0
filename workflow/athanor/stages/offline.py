"""Offline RL: fine-tune further on the best of the model's own answers; the controls on any of them, or on what it had before."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.recipe.graph import MORE
from athanor.recipe.schema.choices import Responses
from athanor.recipe.units import Unit, parse_quantity
from athanor.stages.sft import fine_tune


def run(stage: StageRun) -> Outcome:
    """Train from the weights of the fine-tuned model, or on from an earlier point; instance `model`, one of its earlier points
    (`8K`), `drawn` or `more`."""
    settings, sft = stage.recipe.offline, stage.recipe.sft
    if stage.instance == MORE:
        return fine_tune(stage, settings, sft.mixture, stage.recipe.seed + 1, "own, once more")
    if stage.instance == Responses.DRAWN:
        return fine_tune(stage, settings, settings.mixture, stage.recipe.seed, "any it gave")
    end_tokens = settings.token_budget if stage.instance == "model" else parse_quantity(stage.instance, Unit.TOKENS)
    return fine_tune(stage, settings, settings.mixture, stage.recipe.seed, "the best it gave", end_tokens)
