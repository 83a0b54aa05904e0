"""Spikes of loss and gradient norm: found by robust statistics of the steps before, and what was left out because of them.

A step's loss, or the logarithm of its gradient norm, is compared with the median of the few steps before it; it is a spike
when that difference is more than a number of robust deviations (1.4826 x the median absolute deviation) above the usual
one. So a loss that falls steeply hides no spike in its own spread. Everything follows from the position in
training, so all ranks judge alike and a run that was killed judges as one that was not.
"""

import math
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from athanor.artifacts.run import StageError
from athanor.artifacts.strict_json import line_of, read_lines
from athanor.recipe.schema.choices import SpikeAction
from athanor.recipe.schema.training import Spikes
from athanor.training.checkpoints import Usual

SKIPS = "skips.jsonl"
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
BEFORE = 8  # steps whose median a step is compared with
# Smooth curves must not spike at nothing: at least these count as one deviation, so that 10 of them are a tenth of the loss
# and a norm 2.7 times the usual.
LEAST_LOSS_SPREAD, LEAST_NORM_SPREAD = 0.01, 0.1  # of the loss; of the logarithm of the norm
LEAST_KNOWN = 16  # steps, and half a window, must be known before anything is judged: a spread of fewer says little


class SpikeError(StageError):
    """More spikes than the recipe lets pass."""

    kind = "loss spikes"


@dataclass(frozen=True)
class Skip:
    """Samples [first_sample, end_sample) that training left out, and why. `back_to` is the step it went back to."""

    step: int
    action: str
    reason: str
    loss: float
    grad_norm: float
    first_sample: int
    end_sample: int
    back_to: int | None = None


class Series:
    """The last steps of one quantity, and how far each was above the median of those before it."""

    def __init__(self, window: int, values: Iterable[float] = (), rises: Iterable[float] = ()) -> None:
        self._values, self._rises, self._window = deque(values, BEFORE), deque(rises, window), window

    @property
    def usual(self) -> float:
        """What the next value is compared with."""
        return median(self._values)

    def deviations(self, value: float, least: float) -> float:
        """How many robust deviations (of at least `least`) `value` rises above the usual; 0 until enough is known."""
        if len(self._rises) < max(LEAST_KNOWN, self._window // 2):
            return 0.0
        middle = median(self._rises)
        spread = MAD_TO_DEVIATION * median(abs(rise - middle) for rise in self._rises)
        above, spread = value - self.usual - middle, max(spread, least)
        return above / spread if spread else 0.0  # a loss of 0 after losses that were all the same rises above none

    def learn(self, value: float) -> None:
        """One more step."""
        if self._values:
            self._rises.append(value - self.usual)
        self._values.append(value)

    def state(self) -> list[list[float]]:
        """As the constructor takes it, behind the window."""
        return [list(self._values), list(self._rises)]


class SpikeDetector:
    """Judges each step by the steps before it."""

    def __init__(self, settings: Spikes) -> None:
        self._most, self._window = settings.deviations, settings.window
        self.resume({})

    def judge(self, loss: float, grad_norm: float) -> str:
        """Why this step is a spike; empty when it is none."""
        if (apart := self._losses.deviations(loss, LEAST_LOSS_SPREAD * abs(loss))) > self._most:
            return f"loss {loss:.4f} is {apart:.0f} robust deviations above {self._losses.usual:.4f}"
        if (apart := self._norms.deviations(_log(grad_norm), LEAST_NORM_SPREAD)) > self._most:
            return f"gradient norm {grad_norm:.4g} is {apart:.0f} robust deviations above {math.exp(self._norms.usual):.4g}"
        return ""

    def learn(self, loss: float, grad_norm: float) -> None:
        """Count a step among the usual ones."""
        self._losses.learn(loss)
        self._norms.learn(_log(grad_norm))

    def state(self) -> Usual:
        """For a checkpoint."""
        return {"losses": self._losses.state(), "log_norms": self._norms.state()}

    def resume(self, state: Usual) -> None:
        """Go on from a checkpoint's; an empty one starts anew."""
        self._losses = Series(self._window, *state.get("losses", ()))
        self._norms = Series(self._window, *state.get("log_norms", ()))


class Skips:
    """What was left out: `skips.jsonl`, which outlives the steps that it makes training go back."""

    def __init__(self, path: Path, settings: Spikes) -> None:
        self._path, self._settings = path, settings
        self.all: list[Skip] = []

    def resume(self, step: int, *, write: bool) -> None:
        """Keep what belongs to a run that goes on at `step`; one rank forgets the rest on disk, too."""
        found = read_lines(self._path, Skip)
        self.all = [skip for skip in found if (skip.step if skip.back_to is None else skip.back_to) <= step]
        if write and len(self.all) < len(found):
            self._write()

    def first_sample(self, step: int, samples: int) -> int:
        """Where the samples go on behind `step`, at `samples` by count: later where training went back to that step."""
        return max([samples, *(skip.end_sample for skip in self.all if skip.back_to == step)])

    def add(self, skip: Skip, *, write: bool) -> None:
        """One more. Raises SpikeError where they are too many: a model or a corpus that does this needs a person."""
        self.all.append(skip)
        if write:
            self._write()
        near = [each for each in self.all if each.step > skip.step - self._settings.window]
        if len(near) > self._settings.most:
            raise SpikeError(
                f"{len(near)} spikes within {self._settings.window} steps, the last at step {skip.step}: {skip.reason}; "
                f"pretrain.spikes.most={self._settings.most}. Look at the samples in {self._path}, lower pretrain.lr, or let "
                "more pass"
            )

    def _write(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with temporary.open("w") as file:
            file.writelines(map(line_of, self.all))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)


def skips(action: SpikeAction) -> bool:
    """Whether a spike's step is not to change the weights."""
    return action is not SpikeAction.LOG


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-30))
