"""Supervised fine-tuning of the pretrained model on packed conversations, or of its control on others' responses."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from athanor.artifacts.run import Outcome, StageRun
from athanor.data.mixture import PackedMixture
from athanor.data.packing import PackedWindows
from athanor.data.token_store import read_token_bytes
from athanor.recipe.graph import HELD_OUT, SHUFFLED
from athanor.recipe.schema import Sft
from athanor.stages.pack import TRAIN
from athanor.stages.pretrain import failures_so_far
from athanor.training.checkpoints import FINAL
from athanor.training.loop import Task, train
from athanor.training.validation import HeldOut


def run(stage: StageRun) -> Outcome:
    """Train from the weights of the artifact `start`; `validation_start.json` is what these make of the held-out responses."""
    recipe, settings = stage.recipe, stage.recipe.sft
    control = stage.instance == SHUFFLED
    packs = {name: stage.input_named(name).folder for name in settings.mixture}
    measured = {name: stage.input_named(f"{HELD_OUT}-{name}" if control else name).folder for name in settings.mixture}
    training = {name: folder / TRAIN for name, folder in packs.items()}
    task = Task(
        settings=settings,
        start=stage.input_named("start").folder / FINAL,
        end_tokens=settings.token_budget,
        samples=lambda: PackedMixture(training, settings.mixture, settings.sequence_length, recipe.seed),
        held_out=lambda: _held_out(settings, measured),
        domains=tuple(settings.mixture),
        domain=lambda samples, index: samples.where(index).source,
        afresh=True,
        failures=lambda: failures_so_far(stage),
    )
    outcome = train(stage, task)
    described = {"tokens": outcome.counters["tokens"], "responses": "others'" if control else "own"}
    stage.spool.model(f"{stage.stage}-{stage.instance}", int(outcome.counters["step"]), FINAL, described, "megatron")
    return outcome


def _held_out(settings: Sft, folders: Mapping[str, Path]) -> dict[str, HeldOut]:
    """Held-out conversations by task, as many windows as `validation_tokens` allow but at least one."""
    held_out = {}
    for name, folder in folders.items():
        packed = PackedWindows(folder / HELD_OUT, settings.sequence_length)
        count = min(packed.windows, max(1, settings.validation_tokens // settings.sequence_length))
        windows = [packed.window(position) for position in range(count)]
        learnt = np.concatenate([window.tokens[1:][window.counts[1:]] for window in windows])
        held_out[name] = HeldOut(windows, int(read_token_bytes(folder)[learnt].sum(dtype=np.int64)))
    return held_out
