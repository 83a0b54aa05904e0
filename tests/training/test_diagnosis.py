"""Faults of arithmetic are told apart: of the moment, of a rank's machine, of the data, of the weights."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.recipe.schema.choices import SpikeAction
from athanor.recipe.schema.training import Spikes
from athanor.training.checkpoints import FINAL
from athanor.training.curve import read_curve
from athanor.training.diagnosis import FAULTS, Fault, Origin, attribute, read_faults
from athanor.training.step import Own
from tests.training import processes
from tests.training.faults import no_constants
from tests.training.program import EVERYWHERE, BitFlip, Job
from tests.training.recipes import BATCH, recipe

STEPS = 10
NAN, POISON = math.nan, 300
HUGE = 0x40000000  # the exponent's highest bit: 0.5 becomes 1.7e38
RunJob = Callable[..., tuple[Job, list[int]]]


def _owns(*gradients: float) -> list[Own]:
    return [Own(loss=10 * gradient, gradient=gradient) for gradient in gradients]


# own[d]: data rank d's batch on d. moved[d]: the batch of d + 1 on d.
@pytest.mark.parametrize(
    ("own", "moved", "expected"),
    [
        pytest.param((1, NAN, 3, 4), (2, NAN, 4, 1), (Origin.RANK, (1,)), id="rank 1 gives no number for any batch"),
        pytest.param((1, NAN), (2, NAN), (Origin.RANK, (1,)), id="of two ranks, too"),
        pytest.param((1, 2, NAN, 4), (2, NAN, 4, 1), (Origin.DATA, ()), id="batch 2 gives none on any rank"),
        pytest.param((NAN, NAN), (NAN, NAN), (Origin.STATE, ()), id="no batch gives one on any rank"),
        pytest.param((1, 2, 900, 4), (2, 3, 700, 1), (Origin.RANK, (2,)), id="rank 2 is far off with any batch"),
        pytest.param((900, 2), (700, 1), (Origin.RANK, (0,)), id="of two ranks, the one that is larger both times"),
        pytest.param((1, 900, 3, 4), (900, 3, 4, 1), (Origin.DATA, ()), id="batch 1 is large everywhere"),
        pytest.param((1, 2), (2.0001, 1.0001), (Origin.DATA, ()), id="ranks of another place round differently"),
    ],
)
def test_attribution_follows_rank_or_samples(
    own: tuple[float, ...], moved: tuple[float, ...], expected: tuple[Origin, tuple[int, ...]]
) -> None:
    assert attribute(_owns(*own), _owns(*moved)) == expected


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> RunJob:
    """Run ten steps with something wrong; the job and the exit codes of its ranks."""

    def run(ranks: int = 2, settings: dict[str, Any] | None = None, steps: int = STEPS, **keys: Any) -> tuple[Job, list[int]]:
        folder = tmp_path_factory.mktemp("diagnosis") / "artifact"
        job = Job(folder, recipe(ranks, every_steps=3, **(settings or {})), fresh, steps * BATCH, **keys)
        return job, processes.run(job, ranks)

    return run


def _only_fault(job: Job) -> Fault:
    [fault] = read_faults(job.folder / FAULTS)
    return fault


def _result(job: Job) -> dict[str, bytes]:
    files = [job.folder / "curve.jsonl", job.folder / "validation.json", *(job.folder / FINAL).iterdir()]
    return {path.name: path.read_bytes() for path in files}


def test_bit_flip_of_one_moment_is_computed_again_and_leaves_no_trace(run_job: RunJob) -> None:
    undisturbed, codes = run_job()
    assert codes == [0, 0], processes.log(undisturbed)
    job, codes = run_job(flip=BitFlip(rank=1, first=5, times=1))
    assert codes == [0, 0], processes.log(job)
    fault = _only_fault(job)
    assert (fault.step, fault.origin, fault.ranks) == (5, Origin.TRANSIENT, (1,))
    assert _result(job) == _result(undisturbed)


def test_second_bit_flip_of_one_node_has_it_left_out(run_job: RunJob) -> None:
    job, codes = run_job(flip=BitFlip(rank=1, first=4, times=1))
    assert codes == [0, 0], processes.log(job)
    later = dataclasses.replace(job, end_tokens=2 * STEPS * BATCH, flip=BitFlip(rank=1, first=STEPS + 2, times=1))
    assert processes.run(later, 2) == [1, 1]
    assert "was gone when computed again, as at step 4" in processes.log(later)


@pytest.mark.parametrize("expert", [1, 2])
def test_rank_that_errs_always_is_named(run_job: RunJob, expert: int) -> None:
    flip = BitFlip(rank=1, first=5, module="1.self_attention.linear_proj")
    job, codes = run_job(settings={"expert": expert}, flip=flip)
    assert codes == [1, 1]
    fault = _only_fault(job)
    assert (fault.step, fault.origin, fault.ranks) == (5, Origin.RANK, (1,))
    assert fault.module.endswith("layers.1.self_attention.linear_proj")
    for rank in (0, 1):
        assert f"rank 1 on {fault.nodes[0]}" in processes.log(job, rank)


def test_rank_whose_errors_are_numbers_is_named_too(run_job: RunJob) -> None:
    job, codes = run_job(steps=30, settings={"spikes": Spikes(window=16)}, flip=BitFlip(rank=0, first=24, mask=HUGE))
    assert codes == [1, 1], processes.log(job)
    fault = _only_fault(job)
    assert (fault.step, fault.origin, fault.ranks) == (24, Origin.RANK, (0,))


POISONED = (33, 34)  # of step 5, of one rank's micro-batch


def test_samples_without_a_finite_loss_stop_the_stage_with_their_numbers(run_job: RunJob) -> None:
    job, codes = run_job(poison=POISON, poisoned=POISONED)
    assert codes == [1, 1]
    assert (_only_fault(job).step, _only_fault(job).origin) == (5, Origin.DATA)
    assert "samples 32 to 39 give it wherever they are computed" in processes.log(job)


def test_samples_without_a_finite_loss_are_left_out_where_the_recipe_says_skip(run_job: RunJob) -> None:
    job, codes = run_job(poison=POISON, poisoned=POISONED, settings={"spikes": Spikes(action=SpikeAction.SKIP, window=16)})
    assert codes == [0, 0], processes.log(job)
    [skip] = [json.loads(line) for line in (job.folder / "skips.jsonl").read_text().splitlines()]
    assert (skip["step"], skip["first_sample"], skip["end_sample"], skip["reason"]) == (5, 32, 40, "loss nan")
    for path in (*job.folder.glob("*.json*"), *job.folder.glob("tracking/*"), job.folder / FINAL / "state.json"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=no_constants)
    assert math.isnan(read_curve(job.folder / "curve.jsonl")[4].loss)


def test_checkpoint_behind_samples_that_were_left_out_is_believed(run_job: RunJob) -> None:
    """The samples that it proves itself by have no loss, and had none when it was saved."""
    spikes = Spikes(action=SpikeAction.SKIP, window=16)
    of_step_6 = {"poison": POISON, "poisoned": (41, 42), "settings": {"spikes": spikes}}
    undisturbed, codes = run_job(**of_step_6)
    assert codes == [0, 0], processes.log(undisturbed)
    job, codes = run_job(**of_step_6, steps=6)
    assert codes == [0, 0], processes.log(job)
    assert json.loads((job.folder / FINAL / "state.json").read_text())["proof"]["loss"] is None
    later = dataclasses.replace(job, folder=job.folder.parent / "later", start=job.folder / FINAL, end_tokens=STEPS * BATCH)
    assert processes.run(later, 2) == [0, 0], processes.log(later)
    both = _result(job)["curve.jsonl"] + _result(later)["curve.jsonl"]
    assert both == _result(undisturbed)["curve.jsonl"]


def test_loss_without_a_number_everywhere_is_the_weights(run_job: RunJob) -> None:
    job, codes = run_job(flip=BitFlip(rank=EVERYWHERE, first=5))
    assert codes == [1, 1]
    assert _only_fault(job).origin is Origin.STATE
    assert "lower pretrain.lr" in processes.log(job)


def test_one_rank_alone_asks_another_machine_first_and_the_weights_then(run_job: RunJob) -> None:
    job, codes = run_job(ranks=1, settings={"parallel": {"micro_batch_size": 8}}, flip=BitFlip(rank=0, first=5))
    assert codes == [1]
    assert _only_fault(job).origin is Origin.UNKNOWN
    assert "another node may tell" in processes.log(job)
    assert processes.run(job) == [1]
    assert "No checkpoint holds it" in processes.log(job)
