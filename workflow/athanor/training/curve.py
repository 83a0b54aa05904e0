"""The training curve, one line a step: the same bytes for a run that was killed and continued and one that was not."""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.artifacts.strict_json import line_of, read_lines
from athanor.tracking.spool import NullSpool, Spool
from athanor.training import checkpoints
from athanor.training.checkpoints import Position

CURVE = "curve.jsonl"
REPLAY_TOLERANCE = 0.01  # nats: other layouts round differently; a wrong state is off by far more


@dataclass(frozen=True)
class Point:
    """One step. No times or speeds: they differ between runs and go to the tracking spool.

    Loss and norm are nan in a step that was left out because they were no numbers.
    """

    step: int
    tokens: int  # trained when the step is done
    lr: float
    loss: float  # nats per token of the step's batch, before the update
    grad_norm: float
    aux_loss: float


class Curve:
    """Appends points to `curve.jsonl`."""

    def __init__(self, path: Path, start_step: int, resume_step: int) -> None:
        """Keep the points of steps `start_step` + 1 … `resume_step` and take those behind them off as `replayed`.

        Raises StageError when points are missing: then the curve does not belong to the checkpoint.
        """
        points = read_curve(path)
        kept = [p for p in points if p.step <= resume_step]
        if [p.step for p in kept] != list(range(start_step + 1, resume_step + 1)):
            raise StageError(
                f"{path} lacks steps between {start_step + 1} and {resume_step}, where the checkpoint continues; delete "
                f"{path.parent} and train this milestone again"
            )
        self.last = kept[-1] if kept else None
        self.replayed = {p.step: p for p in points if p.step > resume_step}
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(map(line_of, kept)), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, point: Point) -> None:
        """One more step."""
        self.last = point
        self._file.write(line_of(point))

    def secure(self) -> None:
        """Bring all points to the disk: a checkpoint must never be ahead of its curve."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Secure and close."""
        self.secure()
        self._file.close()


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return before // every != after // every


def compare_with_before(curve: Curve, step: int, loss: float, spool: Spool | NullSpool) -> None:
    """A resume is checked: steps the killed attempt had recorded behind the checkpoint must come out the same."""
    before = curve.replayed.pop(step, None)
    if before is None or replays(before.loss, loss):
        return
    print(
        f"warning: step {step} gave loss {before.loss:.6f} before the restart and {loss:.6f} now: the checkpoint, "
        "the data or a machine is not what it was; compare with `athanor verify --deep`",
        file=sys.stderr,
        flush=True,
    )
    spool.metrics(step, {"replay_loss_difference": loss - before.loss})


def replays(before: float, now: float) -> bool:
    """Whether a step that was computed again came to the same loss, in nats; two that are no numbers did."""
    if math.isfinite(before) and math.isfinite(now):
        return abs(before - now) <= REPLAY_TOLERANCE
    return math.isfinite(before) == math.isfinite(now)


def read_curve(path: Path) -> list[Point]:
    """All whole lines of a curve, or none; a kill may have cut the last one."""
    return read_lines(path, Point)


def refuse_to_lose(folder: Path, position: Position, interval: int, batch_tokens: int) -> None:
    """Steps on record that no checkpoint holds were trained since the last save, or checkpoints are gone: say so before
    training overwrites what is known of them. Those set aside by name are no surprise.

    A save of every `interval` tokens comes with the step that crosses them, and may still be written when the next is due.
    """
    curve = folder / CURVE
    behind = [point for point in read_curve(curve) if point.step > position.step]
    lost = behind[-1].tokens - position.tokens if behind else 0
    if lost > 2 * (interval + batch_tokens) and not checkpoints.set_aside_behind(folder, position.step):
        raise StageError(
            f"{curve} has {len(behind)} steps behind the newest whole checkpoint (step {position.step}): {lost} tokens would be "
            f"trained again, and a save every {interval} tokens allows for no such loss. Bring the missing checkpoints back to "
            f"{folder / checkpoints.SAVES}; or, if they are gone, move the curve away"
        )
