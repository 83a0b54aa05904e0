"""Supervised fine-tuning of the pretrained model on packed conversations, or of its control on others' responses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from athanor.artifacts.run import Input, Outcome, StageRun
from athanor.data.mixture import PackedMixture
from athanor.data.packing import PackedWindows
from athanor.data.token_store import read_token_bytes
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.graph import ADAPTED, HELD_OUT, SECOND, SHUFFLED
from athanor.recipe.mixture_search import SEARCH, settings_of
from athanor.recipe.schema.choices import Backend, PeftKind
from athanor.recipe.schema.post_training import Offline, Sft
from athanor.recipe.schema.training import Training
from athanor.stages.pack import TRAIN
from athanor.stages.pretrain import failures_so_far
from athanor.training.checkpoints import FINAL
from athanor.training.held_out import HeldOut


def run(stage: StageRun) -> Outcome:
    """Train from the weights of the artifact `start`; `validation_start.json` is what these make of the held-out responses."""
    recipe, settings = stage.recipe, stage.recipe.sft
    if stage.instance.startswith(SEARCH):
        settings = settings_of(settings, stage.instance.removeprefix(SEARCH))
    seed = recipe.seed + (stage.instance == SECOND)
    learnt_from = "others'" if stage.instance == SHUFFLED else "own"
    return fine_tune(stage, settings, settings.mixture, seed, learnt_from)


def fine_tune(
    stage: StageRun, settings: Sft | Offline, mixture: Mapping[str, float], seed: int, responses: str, end_tokens: int = 0
) -> Outcome:
    """Train by `settings` on the packs that `mixture` names, in an order that `seed` decides; to `end_tokens`, 0 for all.

    The tasks of `sft.mixture` are what is held out; `responses` says in MLflow whose are learnt.
    """
    packs = {name: stage.input_named(name).folder / TRAIN for name in mixture}
    measured = {name: _measured(stage, name) for name in stage.recipe.sft.mixture}

    def samples() -> PackedMixture:
        return PackedMixture(packs, mixture, settings.sequence_length, seed)

    def held_out() -> dict[str, HeldOut]:
        return _held_out(settings, measured, stage.recipe.sft.sequence_length)

    learnt = Learnt(settings, end_tokens or settings.token_budget, tuple(mixture), samples, held_out)
    deepspeed = stage.recipe.sft.backend is Backend.DEEPSPEED
    outcome = _by_deepspeed(stage, learnt) if deepspeed else _by_megatron(stage, learnt)
    described = {"tokens": outcome.counters["tokens"], "responses": responses}
    if deepspeed and settings.peft.kind is not PeftKind.NONE:
        described |= {"peft": settings.peft.kind.value, "adapter_of": _base(stage).fingerprint}
    path, source = (MODEL_FOLDER, "huggingface") if deepspeed else (FINAL, "megatron")
    stage.spool.model(f"{stage.stage}-{stage.instance}", int(outcome.counters["step"]), path, described, source)
    return outcome


@dataclass(frozen=True)
class Learnt:
    """What is learnt by which settings; opened where something is computed."""

    settings: Sft | Offline
    end_tokens: int
    domains: tuple[str, ...]
    samples: Callable[[], PackedMixture]
    held_out: Callable[[], dict[str, HeldOut]]


def _by_megatron(stage: StageRun, learnt: Learnt) -> Outcome:
    """From Megatron's checkpoint to another."""
    from athanor.training.loop import train
    from athanor.training.task import Task

    start = stage.input_named("start")
    task = Task(
        settings=learnt.settings,
        start=start.folder / FINAL,
        end_tokens=learnt.end_tokens,
        samples=learnt.samples,
        held_out=learnt.held_out,
        domains=learnt.domains,
        domain=lambda samples, index: samples.where(index).source,
        afresh=start.manifest.result.stage != stage.stage,  # else it is this training's own earlier point
        failures=lambda: failures_so_far(stage),
    )
    return train(stage, task)


def _by_deepspeed(stage: StageRun, learnt: Learnt) -> Outcome:
    """From a Hugging Face folder to another, with DeepSpeed's checkpoint beside it."""
    from athanor.training.deepspeed.language import by_domain, fine_tuning
    from athanor.training.deepspeed.loop import train

    settings, before = learnt.settings, stage.input_named("start")
    task = fine_tuning(
        settings, settings.zero, settings.peft, _base(stage).folder / MODEL_FOLDER, learnt.samples, learnt.held_out
    )
    task = by_domain(task, learnt.domains, lambda samples, index: samples.where(index).source)
    earlier = before.folder / FINAL if before.manifest.result.stage == stage.stage else None  # this training's own point
    going_on = replace(task, end_tokens=learnt.end_tokens, earlier=earlier, failures=lambda: failures_so_far(stage))
    return train(stage, going_on)


def _base(stage: StageRun) -> Input:
    """Whose folder is trained, or has adapters put beside: an earlier point's own has them merged."""
    return stage.input_named(ADAPTED if ADAPTED in stage.inputs else "start")


def _measured(stage: StageRun, name: str) -> Path:
    """The pack whose held-out part is measured: a training on other responses is given it beside its own."""
    beside = f"{HELD_OUT}-{name}"
    return stage.input_named(beside if beside in stage.inputs else name).folder


def _held_out(settings: Training, folders: Mapping[str, Path], length: int) -> dict[str, HeldOut]:
    """Held-out conversations by task, as many windows as `validation_tokens` allow but at least one."""
    held_out = {}
    for name, folder in folders.items():
        packed = PackedWindows(folder / HELD_OUT, length)
        count = min(packed.windows, max(1, settings.validation_tokens // length))
        windows = [packed.window(position) for position in range(count)]
        learnt = np.concatenate([window.tokens[1:][window.counts[1:]] for window in windows])
        held_out[name] = HeldOut(windows, int(read_token_bytes(folder)[learnt].sum(dtype=np.int64)))
    return held_out
