"""What a user watches training by: parts of a step, losses by domain, utilisation of a named peak, slow ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.campaign.stragglers import stragglers
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model
from athanor.training.utilisation import flops_per_token, known_peak
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 6
PARTS = {"data", "forward_backward", "communication", "optimizer", "checkpoint", "other"}


@pytest.fixture(scope="module")
def run_job(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Callable[..., Job]:
    """Six steps on two data ranks, logged every third."""

    def run(**keys: Any) -> Job:
        folder = tmp_path_factory.mktemp("monitor") / "artifact"
        job = Job(folder, recipe(2, every_steps=2), fresh, STEPS * BATCH, **keys)
        assert processes.run(job, 2) == [0, 0], processes.log(job)
        return job

    return run


@pytest.fixture(scope="module")
def job(run_job: Callable[..., Job]) -> Job:
    return run_job(domains=True)


def _logged(job: Job) -> list[dict[str, float]]:
    [spool] = (job.folder / "tracking").iterdir()
    points = [json.loads(line)["payload"] for line in spool.read_text().splitlines()]
    return [point for point in points if "tokens_per_second" in point]


def test_parts_of_a_step_are_its_time(job: Job) -> None:
    for point in _logged(job):
        parts = {name.partition("/")[2]: value for name, value in point.items() if name.startswith("step_seconds/")}
        assert parts.keys() == PARTS
        assert all(value >= 0 for value in parts.values())
        assert sum(parts.values()) == pytest.approx(point["step_seconds"])
        assert parts["forward_backward"] > 0 and parts["optimizer"] > 0 and parts["checkpoint"] > 0


def test_losses_by_domain_are_means_of_the_same_tokens(job: Job) -> None:
    """The program says that samples of even and of odd numbers are of two domains: as many tokens of each."""
    losses = [json.loads(line)["loss"] for line in (job.folder / "curve.jsonl").read_text().splitlines()]
    for number, point in enumerate(_logged(job)):
        mean = sum(losses[3 * number : 3 * number + 3]) / 3
        assert (point["loss/even"] + point["loss/odd"]) / 2 == pytest.approx(mean, abs=1e-6)
        assert point["loss/even"] != point["loss/odd"]


def test_rank_that_is_slow_is_found(run_job: Callable[..., Job], job: Job) -> None:
    assert {rank for straggler in stragglers(job.folder) for rank in straggler.ranks} <= {0, 1}
    slow = run_job(slow_rank=1)
    [straggler] = stragglers(slow.folder)
    assert straggler.ranks == (1,)
    assert straggler.seconds > 0.2, "the program has it wait so long in every step"


def test_flops_are_six_for_each_weight_of_a_token_and_causal_attention() -> None:
    """Qwen3-30B-A3B: 3.3B active parameters, of which 0.3B embed and are looked up."""
    model = Model(48, 2048, 32, 4, 128, 128, 8, 768, 151_936, 32_768)
    weights = flops_per_token(model, 0) / 6
    assert weights == pytest.approx(3.35e9 - 151_936 * 2048, rel=0.02)
    assert flops_per_token(model, 4096) - flops_per_token(model, 0) == 6 * 48 * 32 * 128 * 4096


def test_utilisation_needs_a_peak_with_a_name() -> None:
    assert known_peak(Precision.FP32, 0.0) is None
    peak = known_peak(Precision.FP32, 1.5)
    assert peak is not None and "1.5 TFLOP/s" in peak.name and peak.flops_per_second == 1.5e12


def test_utilisation_is_the_models_arithmetic_over_the_peak(run_job: Callable[..., Job], job: Job) -> None:
    assert all("mfu" not in point for point in _logged(job)), "nobody knows this machine's peak"
    made = run_job(peak_tflops=0.01)
    for point in _logged(made):
        flops = point["tokens_per_second"] * flops_per_token(made.recipe.model, made.recipe.pretrain.sequence_length)
        assert point["mfu"] == pytest.approx(flops / 2 / 1e10)
    assert "MFU against 0.01 TFLOP/s a rank, the site's peak_tflops" in processes.log(made)
