"""A milestone that another trainer reaches: a Hugging Face folder from it, a checkpoint and losses of held-out text by us."""

import math
import shutil
from collections.abc import Callable, Mapping

from athanor.artifacts.files import write_atomically
from athanor.artifacts.run import Input, Outcome, StageError, StageRun
from athanor.artifacts.strict_json import line_of
from athanor.data.windows import held_out_shards, training_shards
from athanor.external.contract import METRICS_FILE, Budget, Corpus, Told
from athanor.models.conversions import ConversionError
from athanor.models.folder_files import MODEL_FOLDER, FolderError
from athanor.models.huggingface_folder import open_folder
from athanor.models.import_huggingface import ROOM, bytes_below, lack_of_room, plan_import
from athanor.models.safetensors_file import SafetensorsError
from athanor.recipe.graph import GIVEN
from athanor.recipe.units import Unit, parse_quantity
from athanor.stages.external import Deal, Made, await_others, end_if_asked, hand_over, made
from athanor.training.checkpoints import FINAL, Position
from athanor.training.curve import CURVE, Point
from athanor.training.held_out import VALIDATION, DomainLoss, HeldOut, write_validation
from athanor.training.importing import WRITING, tell_bytes, write_weights
from athanor.training.measured import measure


def pretrain_elsewhere(stage: StageRun, inputs: Mapping[str, Input], held_out: Callable[[], Mapping[str, HeldOut]]) -> Outcome:
    """Leaves what a milestone of ours has, and `metrics.jsonl`; `inputs` are the tokens. Raises as `hand_over`."""
    deal, checkpoint = _deal(stage, inputs), stage.folder / FINAL
    if not checkpoint.is_dir():
        hand_over(stage, deal)
        if stage.rank == 0:
            _import(stage, made(stage, deal).last)
        else:
            await_others(stage, checkpoint.is_dir)
    end_if_asked(stage, "before it was measured")
    losses = measure(stage, stage.recipe.pretrain, checkpoint, held_out())
    if stage.rank != 0:
        return Outcome(())
    shutil.rmtree(stage.folder / MODEL_FOLDER, ignore_errors=True)  # the checkpoint has its weights
    return _outcome(stage, made(stage, deal), losses)


def _deal(stage: StageRun, inputs: Mapping[str, Input]) -> Deal:
    p, start = stage.recipe.pretrain, stage.input_named("start")
    folders = {name: one.folder.absolute() for name, one in inputs.items()}
    corpus = Corpus(
        dict(p.mixture),
        p.sequence_length,
        {name: [str(folder) for folder in shards] for name, shards in training_shards(folders).items()},
        {name: str(folder) for name, folder in held_out_shards(folders).items()},
        int(start.counters["step"]),
        int(start.counters["tokens"]),
    )
    budget = Budget(parse_quantity(stage.instance, Unit.TOKENS))
    if corpus.tokens >= budget.tokens:
        raise StageError(f"{start.folder} has {corpus.tokens} tokens already, and this milestone ends at {budget.tokens}")
    return Deal("pretrain", p.external, stage.input_named(GIVEN), {}, budget, corpus=corpus)


def _position(stage: StageRun, last: Told) -> Position:
    return Position(last.step, last.tokens, last.tokens // stage.recipe.pretrain.sequence_length)


def _import(stage: StageRun, last: Told) -> None:
    """The folder that was left, which is like the start in every tensor, as a checkpoint."""

    def written(done: int, total: int) -> None:
        tell_bytes(stage, done, total, "written")

    try:
        plan = plan_import(open_folder(stage.folder / MODEL_FOLDER), stage.recipe.model, stage.recipe.seed)
        if lack := lack_of_room(stage.folder, ROOM * plan.checkpoint_bytes - bytes_below(stage.folder / WRITING)):
            raise StageError(f"No space left on device: {lack}")
        write_weights(plan, stage.folder, _position(stage, last), written)
    except (FolderError, ConversionError, SafetensorsError) as error:
        raise StageError(str(error)) from error


def _outcome(stage: StageRun, found: Made, losses: Mapping[str, DomainLoss]) -> Outcome:
    write_validation(stage.folder / VALIDATION, losses)
    points = [_point(line) for line in found.lines if "loss" in line.values]
    write_atomically(stage.folder / CURVE, "".join(map(line_of, points)))
    last, at = found.last, _position(stage, found.last)
    described = {"tokens": last.tokens, "trainer": found.trainer["command"], "trainer_version": found.trainer["version"]}
    stage.spool.model(f"{stage.stage}-{stage.instance}", last.step, FINAL, described, "megatron")
    told = {
        f"{domain}/{name}": getattr(loss, name) for domain, loss in losses.items() for name in ("bits_per_byte", "nats_per_token")
    }
    stage.spool.metrics(last.step, {f"validation/{name}": value for name, value in told.items()})
    counters: dict[str, int | str] = {"step": at.step, "tokens": at.tokens, "samples": at.samples}
    return Outcome((FINAL, CURVE, VALIDATION, METRICS_FILE), counters, {**found.values(), **told}, found.trainer)


def _point(line: Told) -> Point:
    """Of the curve; what was not told is no number."""
    lr, norm = (line.values.get(name, math.nan) for name in ("learning_rate", "grad_norm"))
    return Point(line.step, line.tokens, lr, line.values["loss"], norm, math.nan)
