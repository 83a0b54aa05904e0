"""A Hugging Face folder as the checkpoint where training starts, with what it had beside the decoder kept next to it."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from athanor.artifacts.files import secure_tree, write_json
from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.models.conversions import ConversionError
from athanor.models.folder_files import FolderError, require_digest
from athanor.models.huggingface_folder import open_folder
from athanor.models.import_huggingface import Import, no_room, plan_import, write_checkpoint
from athanor.models.origin import HUGGINGFACE, keep
from athanor.models.safetensors_file import SafetensorsError
from athanor.recipe.loading import project_folder
from athanor.recipe.schema.recipe import Recipe
from athanor.training.checkpoints import FINAL, SCHEMA_VERSION, STATE, Position, State

MEGABYTE = 1_000_000
WRITING = f".{FINAL}.writing"  # what goes on being written after a kill


def write_import(plan: Import, into: Path, progress: Callable[[int, int], None]) -> None:
    """Make `into`/checkpoint and `into`/huggingface; the checkpoint has its name only once all of it is there.

    An interrupted call is continued. `progress` is told (bytes done, bytes in all), and may raise to stop.
    """
    keep(plan.folder, plan.model, into / HUGGINGFACE)
    write_weights(plan, into, Position(), progress)


def write_weights(plan: Import, into: Path, position: Position, progress: Callable[[int, int], None]) -> None:
    """As `write_import`, of weights that were trained up to `position`; `into`/checkpoint alone."""
    beside, final = into / WRITING, into / FINAL
    files = write_checkpoint(plan, beside, progress)
    # No layout wrote it: the weights load into any, and there is nothing else.
    state = State(position, layout={}, optimizer=False, files=files)
    write_json(beside / STATE, {"schema_version": SCHEMA_VERSION, **asdict(state)})
    secure_tree(beside)
    os.replace(beside, final)


def import_start(stage: StageRun, recipe: Recipe) -> Outcome:
    """Import `pretrain.init_from`, once its files hash as the recipe was locked to. Raises StageError and Stopped."""
    source = project_folder() / recipe.pretrain.init_from

    def hashed(done: int, total: int) -> None:
        tell_bytes(stage, done, total, "hashed")

    def written(done: int, total: int) -> None:
        tell_bytes(stage, done, total, "written")

    try:
        folder = open_folder(source)
        plan = plan_import(folder, recipe.model, recipe.seed)
        if lack := no_room(plan, stage.folder):
            raise StageError(f"No space left on device: {lack}")
        require_digest(source, recipe.pretrain.init_from_sha256, hashed, "pretrain.init_from")
        write_import(plan, stage.folder, written)
    except (FolderError, ConversionError, SafetensorsError) as error:
        raise StageError(str(error)) from error
    counters = {"step": 0, "tokens": 0, "samples": 0, "parameters": plan.parameters}
    return Outcome(files=(FINAL, HUGGINGFACE), counters=counters)


def tell_bytes(stage: StageRun, done: int, total: int, unit: str) -> None:
    """Progress, in bytes. Raises Stopped where a stop was asked for, but at the end."""
    stage.progress(done // MEGABYTE, total // MEGABYTE, f"MB {unit}")
    if stage.stop_requested and done < total:
        raise Stopped(f"the import after {done / 1e9:.3g} of {total / 1e9:.3g} GB {unit}")
