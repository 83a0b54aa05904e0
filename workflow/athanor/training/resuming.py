"""Where a killed run continues: the newest checkpoint that is whole and proves itself, before anything is overwritten."""

from collections.abc import Callable
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.training import checkpoints
from athanor.training.checkpoints import Position, State
from athanor.training.optimizer import Learner
from athanor.training.sharded_state import load_learner, load_weights


def load_newest(
    folder: Path, start: Path, learner: Learner, contradiction: Callable[[State], str], *, afresh: bool = False
) -> tuple[Path | None, State]:
    """Load the newest checkpoint below the artifact's `folder` that is whole and whose proof holds, or else `start` (None),
    `afresh` its weights alone, as at the beginning of training.

    `contradiction` measures what was loaded. Newer ones are quarantined with the reason. Raises StageError where `start`
    does not hold, either. On all ranks together.
    """
    while True:
        newest = checkpoints.newest_whole(folder)
        source = newest or start
        if newest is None and (damaged := checkpoints.damage(source)):
            raise StageError(f"{source} is damaged ({damaged[0]}); delete its manifest and make it again")
        state = checkpoints.read_state(source)
        if newest is None and afresh:
            load_weights(learner, source)
            return None, State(Position(), state.layout, optimizer=False)
        if state.optimizer:
            load_learner(learner, source, same_layout=state.layout == learner.layout.recorded())
        else:
            load_weights(learner, source)
        wrong = contradiction(state)
        if not wrong:
            return newest, state
        if newest is None:
            raise StageError(f"{source} is not what was saved: {wrong}; delete its manifest and make it again")
        checkpoints.set_aside(folder, newest, f"is not what was saved: {wrong}")
