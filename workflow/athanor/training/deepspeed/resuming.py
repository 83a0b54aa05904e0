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
        state = checkpoints.read_state(newest)
        if state.layout != layout:
            raise StageError(
                f"{newest} was written by {_told(state.layout)}, and this job has {_told(layout)}: DeepSpeed's saves are "
                f"cut by ranks, stage and precision; go on with those, or delete {folder} and train anew"
            )
        load(newest)
        if not (wrong := contradiction(state)):
            return newest, state
        checkpoints.set_aside(folder, newest, f"is not what was saved: {wrong}")
    return None


def _told(layout: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in layout.items())
