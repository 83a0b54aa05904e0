"""Training under `fp8_emulated`: the same in every layout, after a kill and with recomputation; checkpoints go to other
precisions and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.recipe.schema.choices import Precision, Recompute
from athanor.recipe.schema.recipe import Recipe
from athanor.training.checkpoints import FINAL
from tests import ranks as warm
from tests.training import processes
from tests.training.block_scaled_ranks import multiply
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

# Of two tensor ranks each has whole tiles of every matrix: 256 = 2 x 128 outputs of linear_qkv, 256 inputs of linear_proj.
SHAPE = {"num_layers": 4, "hidden_size": 128, "num_attention_heads": 4, "head_dim": 64, "expert_ffn_size": 256}
STEPS = 6
# Nats. Ranks sum BF16 numbers in another order, and batch other tokens together in the tiles of the weights' gradients. Under
# `bf16` the same layouts are up to 2e-3 apart.
TOLERANCE = 5e-3
# Nats at the worst of nine steps: runs that are wholly under `bf16` or `fp32` are 0.037 and 0.039 from the one under FP8, and
# three steps of theirs in its middle leave half of that.
OTHER_PRECISION = 0.037


def _recipe(ranks: int = 1, precision: Precision = Precision.FP8_EMULATED, **keys: Any) -> Recipe:
    return recipe(ranks, precision=precision, model=SHAPE, lr=1e-3, **keys)


def _losses(job: Job, ranks: int = 1) -> list[float]:
    assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    return [json.loads(line)["loss"] for line in (job.folder / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = Job(tmp_path_factory.mktemp("initialize") / "artifact", _recipe())
    assert processes.run(job) == [0], processes.log(job)
    return job.folder / FINAL


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Job:
    """One rank; the first and the last layer stay in BF16."""
    job = Job(
        tmp_path_factory.mktemp("alone") / "run",
        _recipe(bf16_first_layers=1, bf16_last_layers=1, parallel={"micro_batch_size": 2}),
        start,
        STEPS * BATCH,
    )
    _losses(job)
    return job


def _curve(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_log_says_at_the_start_what_multiplies_in_fp8(alone: Job) -> None:
    lines = processes.log(alone).splitlines()
    assert len([line for line in lines if line.startswith("precision fp8_emulated: ")]) == 1


@pytest.mark.parametrize("recompute", [Recompute.FULL, Recompute.SELECTIVE])
def test_recomputed_activations_change_no_bit(recompute: Recompute, alone: Job, start: Path, tmp_path: Path) -> None:
    settings = _recipe(bf16_first_layers=1, bf16_last_layers=1, parallel={"micro_batch_size": 2, "recompute": recompute})
    assert _losses(Job(tmp_path / "run", settings, start, STEPS * BATCH)) == _curve(alone.folder)


@pytest.mark.parametrize(
    "parallel",
    [{"pipeline": 2, "virtual_pipeline": 2}, {"tensor": 2}, {"tensor": 2, "expert": 2}, {"expert": 2}, {"context": 2}],
    ids=lambda parallel: "-".join(f"{name}{size}" for name, size in parallel.items()),
)
def test_two_ranks_train_as_one_does(parallel: dict[str, int], alone: Job, start: Path, tmp_path: Path) -> None:
    settings = _recipe(2, bf16_first_layers=1, bf16_last_layers=1, parallel={"micro_batch_size": 2, **parallel})
    losses = _losses(Job(tmp_path / "run", settings, start, STEPS * BATCH), 2)
    assert losses == pytest.approx(_curve(alone.folder), abs=TOLERANCE, rel=0)


def test_tensor_ranks_multiply_the_parts_of_the_same_quantised_matrices(tmp_path: Path) -> None:
    """In float32 and one layer deep, where nothing rounds on."""
    results = []
    for ranks in (1, 2):
        logs = [tmp_path / f"{ranks}-{rank}.log" for rank in range(ranks)]
        assert warm.wait(warm.start(multiply, tmp_path / str(ranks), logs=logs)) == [0] * ranks, logs[0].read_text()
        parts = [torch.load(tmp_path / f"{ranks}-{rank}.pt") for rank in range(ranks)]
        results.append({name: torch.cat([part[name][0] for part in parts], dim=parts[0][name][1]) for name in parts[0]})
    for name, whole in results[0].items():
        torch.testing.assert_close(results[1][name], whole, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_kill_of_all_ranks_then_restart_ends_in_the_same_bytes(fresh: Path, tmp_path: Path) -> None:
    settings = recipe(2, expert=2, precision=Precision.FP8_EMULATED)
    undisturbed = Job(tmp_path / "undisturbed", settings, fresh, 14 * BATCH)
    assert processes.run(undisturbed, 2) == [0, 0], processes.log(undisturbed)
    killed = Job(tmp_path / "killed", settings, fresh, 14 * BATCH, pause_at_step=11)
    ranks = processes.start(killed, 2)
    processes.wait_for([killed.folder / "paused-0", killed.folder / "paused-1"], ranks)
    processes.kill(ranks)
    again = Job(killed.folder, settings, fresh, 14 * BATCH)
    assert processes.run(again, 2) == [0, 0], processes.log(again)
    assert f"at {8 * BATCH} tokens" in processes.log(again)
    names = ["curve.jsonl", "validation.json", *(f"{FINAL}/{path.name}" for path in (undisturbed.folder / FINAL).iterdir())]
    for name in names:
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), name


@pytest.mark.parametrize("other", [Precision.BF16, Precision.FP32])
def test_checkpoint_goes_to_another_precision_and_back(other: Precision, start: Path, tmp_path: Path) -> None:
    whole = _losses(Job(tmp_path / "whole", _recipe(), start, 9 * BATCH))
    parts, begin = [], start
    for number, precision in enumerate((Precision.FP8_EMULATED, other, Precision.FP8_EMULATED), start=1):
        job = Job(tmp_path / str(number), _recipe(precision=precision), begin, 3 * number * BATCH)
        parts += _losses(job)
        begin = job.folder / FINAL
    assert parts[:3] == whole[:3]
    assert parts[3] != whole[3], "some products are not in FP8"
    assert parts == pytest.approx(whole, abs=OTHER_PRECISION, rel=0)
