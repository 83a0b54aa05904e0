"""Rounds of answers that were written down before, learnt from by either backend; the engine drew what the trainer says."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch.distributed as dist

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.recipe.schema.choices import Backend
from athanor.rl.rollouts.handover import checksum
from athanor.training.answers import Drawn, Learnable
from athanor.training.rounds import LogProbs, Weights
from athanor.training.samples import SampleReader
from tests.training.synthetic import VOCABULARY

SAMPLES = 32  # of a round: four steps of eight, whose last two teach nothing; nor does all of the first two steps
ROUNDS = "rounds.jsonl"


@cache
def drawn(sample: int) -> Drawn:
    """Prompts and answers of many lengths."""
    random = np.random.default_rng(sample)
    prompt, answer = (tuple(map(int, random.integers(8, VOCABULARY, random.integers(1, most)))) for most in (9, 14))
    return Drawn(prompt, answer, (0.0,) * len(answer))


def teaches(sample: int) -> bool:
    return sample % 8 < 6 and sample % SAMPLES // 8 > 1


class GivenRounds:
    """`Rounds` and the reader of their answers; a line of `rounds.jsonl` has what the weights said, and their sum."""

    samples = SAMPLES

    def __init__(self, stage: StageRun, pause_at_step: int) -> None:
        self._stage, self._path, self._pause_at_step = stage, stage.folder / ROUNDS, pause_at_step

    def answer(self, sample: int) -> Learnable | None:
        if not teaches(sample):
            return None
        said = self._made()[sample // SAMPLES]["said"][sample % SAMPLES]
        one, gain = drawn(sample), 1.0 - sample % 3
        row = replace(one, log_probs=tuple(value + 0.1 for value in said))
        return Learnable(row, tuple(said), gain, gain > 0, (False,) * len(said))

    def begin(self, number: int, weights: Callable[[], Weights], says: LogProbs) -> None:
        if number < len(self._made()):
            return
        if number and (self._stage.folder / "away").exists():
            raise StageError("nobody answers")
        first = number * SAMPLES
        said, has = says([drawn(first + place) for place in range(SAMPLES)]), checksum(weights())
        if dist.get_rank() == 0:
            with self._path.open("a") as file:
                file.write(json.dumps({"has": has, "said": said}) + "\n")
        dist.barrier()

    def learnt(self, samples: range) -> int:
        return sum(map(teaches, samples))

    def step_done(self, step: int, samples: range, *, left_out: bool) -> None:
        if step + 1 == self._pause_at_step:
            (self._stage.folder / f"paused-{self._stage.rank}").touch()
            time.sleep(600)

    def settle(self, step: int, says: LogProbs) -> None:
        said = says([drawn(0)])
        (self._stage.folder / f"looked-{step}-{dist.get_rank()}.json").write_text(json.dumps(said))

    def resume(self, step: int, says: LogProbs) -> None:
        path = self._stage.folder / f"looked-{step}-{dist.get_rank()}.json"
        if path.is_file():
            [[*before]], [now] = json.loads(path.read_text()), says([drawn(0)])
            print(f"off by {max(abs(a - b) for a, b in zip(before, now, strict=True))}", flush=True)

    def metrics(self) -> dict[str, float]:
        return {}

    def _made(self) -> list[dict[str, list[list[float]]]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.is_file() else []


def learn(stage: StageRun, start: Path, exported: Path, backend: Backend, pause_at_step: int) -> Outcome:
    """To the end of the budget, from Megatron's checkpoint `start` or from its exported folder."""
    settings, rounds = stage.recipe.online, GivenRounds(stage, pause_at_step)
    if backend is Backend.DEEPSPEED:
        from athanor.training.deepspeed import loop
        from athanor.training.deepspeed.online import PolicyLoss, online_learning

        return loop.train(stage, online_learning(settings, exported, 0, rounds, rounds, PolicyLoss(settings.objective)))
    from athanor.training.loop import train
    from athanor.training.online import AnswerBatches, AnswerObjective, OnRounds, Says, capacity_of
    from athanor.training.optimizer import Learner
    from athanor.training.round_weights import RoundWeights
    from athanor.training.task import Task

    def on_rounds(learner: Learner) -> OnRounds:
        weights = RoundWeights(learner, stage.recipe.model, exported, stage.folder / "weights")
        return OnRounds(AnswerBatches(rounds, settings, learner.layout), Says(learner, capacity_of(settings)), weights)

    def samples() -> SampleReader:
        raise AssertionError

    objective = AnswerObjective(settings.objective)
    task = Task(settings, start, settings.token_budget, samples, dict, objective, afresh=True)
    return train(stage, replace(task, rounds=rounds, on_rounds=on_rounds, drop_norms=settings.drop_norms))
