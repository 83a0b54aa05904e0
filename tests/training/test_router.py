"""The routers there are: a bias that evens the load without a loss, shared experts, and the loss by micro-batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.models.conversions import EXPERT_BIAS
from athanor.models.torch_dist import ShardedCheckpoint
from athanor.recipe.schema.choices import Balance, Router, SpikeAction
from athanor.recipe.schema.training import Spikes
from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.program import BitFlip, Job
from tests.training.recipes import BATCH, recipe

LOSS_FREE = {"router": Router.LOSS_FREE, "shared_experts": 1, "expert_bias_rate": 0.01, "aux_loss_coefficient": 0.0}
STEPS, TOLERANCE = 6, 1e-6  # nats: as all layouts (test_layouts.py)
RunJob = Callable[..., Job]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Path]:
    """Fresh weights of a model with these keys."""
    made: dict[str, Path] = {}

    def begin(model: dict[str, Any]) -> Path:
        if (name := str(model)) not in made:
            job = Job(tmp_path_factory.mktemp("start") / "artifact", recipe(1, model=model))
            assert processes.run(job) == [0], processes.log(job)
            made[name] = job.folder / FINAL
        return made[name]

    return begin


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory, start: Callable[[dict[str, Any]], Path]) -> RunJob:
    def run(model: dict[str, Any], ranks: int = 1, steps: int = STEPS, begin: Path | None = None, **keys: Any) -> Job:
        settings = {name: keys.pop(name) for name in ("parallel", "spikes", "freeze") if name in keys}
        made = recipe(ranks, model=model, every_steps=100, **settings)
        job = Job(tmp_path_factory.mktemp("router") / "artifact", made, begin or start(model), steps * BATCH, **keys)
        assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
        return job

    return run


def _losses(job: Job) -> list[float]:
    return [json.loads(line)["loss"] for line in (job.folder / "curve.jsonl").read_text().splitlines()]


def _biases(job: Job) -> torch.Tensor:
    return ShardedCheckpoint(job.folder / FINAL).read(EXPERT_BIAS)


def _unevenness(job: Job) -> float:
    """Busiest expert over the mean, over the last steps that were logged together."""
    [spool] = (job.folder / "tracking").iterdir()
    points = [json.loads(line)["payload"] for line in spool.read_text().splitlines()]
    return [float(point["expert_load_max_over_mean"]) for point in points if "expert_load_max_over_mean" in point][-1]


@pytest.mark.parametrize("sizes", [{}, {"expert": 2}, {"tensor": 2}, {"pipeline": 2}, {"context": 2}], ids=str)
def test_loss_free_router_trains_alike_in_every_layout(run_job: RunJob, sizes: dict[str, int]) -> None:
    alone, spread = run_job(LOSS_FREE), run_job(LOSS_FREE, 2, parallel=sizes)
    assert _losses(spread) == pytest.approx(_losses(alone), abs=TOLERANCE, rel=0)
    assert torch.equal(_biases(spread), _biases(alone))
    assert _biases(alone).abs().max() > 0


def test_bias_evens_the_load_which_a_bias_that_stands_still_does_not(run_job: RunJob) -> None:
    moving = run_job(LOSS_FREE, steps=60)
    still = run_job({**LOSS_FREE, "expert_bias_rate": 1e-9}, steps=60)
    assert _unevenness(moving) < _unevenness(still) - 0.1


def test_bias_goes_on_where_a_checkpoint_has_it(run_job: RunJob) -> None:
    whole, first = run_job(LOSS_FREE), run_job(LOSS_FREE, steps=3)
    second = run_job(LOSS_FREE, begin=first.folder / FINAL)
    assert _losses(first) + _losses(second) == _losses(whole)
    assert torch.equal(_biases(second), _biases(whole))


def test_bias_stays_where_a_step_is_left_out(run_job: RunJob) -> None:
    """A step that is skipped moves no weight, and no bias: Megatron moves it with the gradients already."""
    skip = Spikes(action=SpikeAction.SKIP, window=16)
    poisoned = tuple(range(8 * (STEPS - 1), 8 * STEPS))  # all samples of the last step
    parallel = {"micro_batch_size": 4}
    skipped = run_job(LOSS_FREE, 2, spikes=skip, parallel=parallel, poison=300, poisoned=poisoned[:1])
    before = run_job(LOSS_FREE, 2, steps=STEPS - 1, parallel=parallel)
    assert torch.equal(_biases(skipped), _biases(before))


def test_bias_of_a_frozen_router_stands_still(run_job: RunJob) -> None:
    assert not _biases(run_job(LOSS_FREE, freeze=["mlp.router"])).any()


def test_step_that_is_computed_again_moves_the_bias_once(run_job: RunJob) -> None:
    disturbed = run_job(LOSS_FREE, 2, flip=BitFlip(rank=1, first=4, times=1))
    undisturbed = run_job(LOSS_FREE, 2)
    assert _losses(disturbed) == _losses(undisturbed)
    assert torch.equal(_biases(disturbed), _biases(undisturbed))


@pytest.mark.parametrize("sizes", [{}, {"expert": 2}, {"tensor": 2}, {"context": 2}], ids=str)
def test_loss_by_micro_batch_trains_alike_where_micro_batches_are_the_same(run_job: RunJob, sizes: dict[str, int]) -> None:
    model = {"balance": Balance.MICRO_BATCH, "aux_loss_coefficient": 0.1}
    alone, spread = run_job(model), run_job(model, 2, parallel=sizes)
    assert _losses(spread) == pytest.approx(_losses(alone), abs=TOLERANCE, rel=0)
    by_sequence = run_job({"aux_loss_coefficient": 0.1})
    assert _losses(by_sequence) != pytest.approx(_losses(alone), abs=TOLERANCE, rel=0)
