"""The seam between Megatron's loop and the stages: what is trained, on what, and how far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from athanor.recipe.schema.training import Training
from athanor.training.failures import Failures
from athanor.training.held_out import HeldOut
from athanor.training.objective import NextToken, Objective
from athanor.training.online import OnRounds
from athanor.training.optimizer import Learner
from athanor.training.rounds import Rounds
from athanor.training.samples import SampleReader


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and how far. `samples` and `held_out` are called only where something is computed, `failures` by
    rank 0 where the recipe leaves the interval of saves to them."""

    settings: Training
    start: Path  # a checkpoint folder; one without optimizer state starts a fresh one
    end_tokens: int  # training ends with the step that reaches them
    samples: Callable[[], SampleReader]
    held_out: Callable[[], Mapping[str, HeldOut]]
    objective: Objective = field(default_factory=NextToken)
    domains: tuple[str, ...] = ()  # under which losses are reported while training
    domain: Callable[[Any, int], str] | None = None  # one of them, of a sample of what `samples` gave
    afresh: bool = False  # take the weights of `start` alone: another stage's optimizer, steps and tokens are not this one's
    failures: Callable[[], Failures] = Failures  # of the machines it was trained on so far
    rounds: Rounds | None = None  # where samples are made by the weights that learn from them; `samples` is not called then
    on_rounds: Callable[[Learner], OnRounds] | None = None  # there
    drop_norms: float = 0.0  # share of steps that are left out, those of the largest gradient norms
