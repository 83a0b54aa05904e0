"""Where a killed run continues: the newest checkpoint that is whole, of this layout, and proves itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from athanor.artifacts.run import StageError
from athanor.training import checkpoints
from athanor.training.checkpoints import State
from athanor.training.deepspeed.ranks import Ranks
from athanor.training.deepspeed.task import ModuleTask


def layout_of(task: ModuleTask, ranks: Ranks) -> dict[str, Any]:
    """What a checkpoint's files are cut by."""
    return {
        "backend": "deepspeed",
        "ranks": ranks.data_ranks,
        "zero": task.zero.stage,
        "offload": task.zero.offload,
        "precision": task.settings.precision.value,
        "optimizer": task.settings.optimizer.name.value,
    }


def load_newest(
    folder: Path, layout: Mapping[str, Any], load: Callable[[Path], None], contradiction: Callable[[State], str]
) -> tuple[Path, State] | None:
    """Load the newest checkpoint below the artifact's `folder` that is whole and whose proof holds; None where there is none.

    Newer ones are quarantined with the reason. Raises StageError where the newest is of another layout. On all ranks together.
    """
    while (newest := checkpoints.newest_whole(folder)) is not None:
        state = _of_layout(newest, layout, f"delete {folder} and train anew")
        load(newest)
        if not (wrong := contradiction(state)):
            return newest, state
        checkpoints.set_aside(folder, newest, f"is not what was saved: {wrong}")
    return None


def load_earlier(
    save: Path, layout: Mapping[str, Any], load: Callable[[Path], None], contradiction: Callable[[State], str]
) -> State:
    """Load `save`, which another artifact has: an earlier point of the same training. On all ranks together.

    Raises StageError where it is damaged, of another layout or not what was saved.
    """
    anew = f"delete {save.parent / 'manifest.json'} and make it again"
    if damaged := checkpoints.damage(save):
        raise StageError(f"{save} is damaged ({damaged[0]}); {anew}")
    state = _of_layout(save, layout, f"delete {save.parent} and train it anew")
    load(save)
    if wrong := contradiction(state):
        raise StageError(f"{save} is not what was saved: {wrong}; {anew}")
    return state


def _of_layout(save: Path, layout: Mapping[str, Any], otherwise: str) -> State:
    state = checkpoints.read_state(save)
    if state.layout != layout:
        raise StageError(
            f"{save} was written by {_told(state.layout)}, and this job has {_told(layout)}: DeepSpeed's saves are "
            f"cut by ranks, stage and precision; go on with those, or {otherwise}"
        )
    return state


def _told(layout: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in layout.items())
