"""Offline RL: fine-tune further on the best of the model's own answers; the controls on any of them, or on what it had before."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.recipe.graph import MORE
from athanor.stages.sft import fine_tune


def run(stage: StageRun) -> Outcome:
    """Train from the weights of the fine-tuned model, `start`; instance `model`, `drawn` or `more`."""
    settings, sft = stage.recipe.offline, stage.recipe.sft
    if stage.instance == MORE:
        return fine_tune(stage, settings, sft.mixture, stage.recipe.seed + 1, "own, once more")
    responses = "the best it gave" if stage.instance == "model" else "any it gave"
    return fine_tune(stage, settings, settings.mixture, stage.recipe.seed, responses)
