"""The same loop on a GPU: Transformer Engine layers and FP8, checkpoints that go to a CPU and back."""

import json
import math
from pathlib import Path

import pytest
import torch

from athanor.models.conversions import correspondences
from athanor.models.torch_dist import ShardedCheckpoint
from athanor.recipe.families import family_of
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and Transformer Engine: pytest -m gpu there"),
]
BLACKWELL = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (10, 0),
    reason="needs a GPU of compute capability 10.0: pytest -m gpu on a Blackwell",
)
FP8 = [
    Precision.FP8_DELAYED,
    Precision.FP8_TENSORWISE,
    Precision.FP8_BLOCKWISE,
    pytest.param(Precision.MXFP8, marks=BLACKWELL),
]
SHAPE = {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "expert_ffn_size": 128}  # FP8 blocks are 128 wide
STEPS = 60


def _recipe(precision: Precision, every_steps: int = 1000) -> Recipe:
    return recipe(1, precision=precision, every_steps=every_steps, model=SHAPE)


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def _run(job: Job, **variables: str) -> list[float]:
    assert processes.run(job, **variables) == [0], processes.log(job)
    return _losses(job.folder)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights, drawn on a CPU: the random numbers of a GPU are others."""
    job = Job(tmp_path_factory.mktemp("initialize") / "artifact", _recipe(Precision.FP32))
    assert processes.run(job, CUDA_VISIBLE_DEVICES="") == [0], processes.log(job)
    return job.folder / FINAL


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory, start: Path) -> list[float]:
    """The losses that FP8 stands beside."""
    return _run(Job(tmp_path_factory.mktemp("bf16") / "run", _recipe(Precision.BF16), start, STEPS * BATCH))


def test_float32_gives_the_losses_of_a_cpu(start: Path, tmp_path: Path) -> None:
    gpu = _run(Job(tmp_path / "gpu", _recipe(Precision.FP32), start, 6 * BATCH))
    cpu = _run(Job(tmp_path / "cpu", _recipe(Precision.FP32), start, 6 * BATCH), CUDA_VISIBLE_DEVICES="")
    assert gpu == pytest.approx(cpu, abs=2e-3, rel=0)


def test_bf16_learns_the_chains(bf16: list[float]) -> None:
    assert bf16[0] == pytest.approx(math.log(320), abs=0.1)
    assert bf16[-1] < 3.0


@pytest.mark.parametrize("precision", FP8)
def test_fp8_learns_as_bf16_does(precision: Precision, bf16: list[float], start: Path, tmp_path: Path) -> None:
    losses = _run(Job(tmp_path / "run", _recipe(precision), start, STEPS * BATCH))
    assert losses != bf16, "some products were in FP8"
    assert losses[:5] == pytest.approx(bf16[:5], abs=0.05, rel=0)
    assert losses[-1] == pytest.approx(bf16[-1], abs=0.15, rel=0)


def test_emulated_fp8_gives_the_losses_of_blockwise_fp8(start: Path, tmp_path: Path) -> None:
    gpu = _run(Job(tmp_path / "gpu", _recipe(Precision.FP8_BLOCKWISE), start, 6 * BATCH))
    cpu = _run(Job(tmp_path / "cpu", _recipe(Precision.FP8_EMULATED), start, 6 * BATCH), CUDA_VISIBLE_DEVICES="")
    assert gpu == pytest.approx(cpu, abs=0.02, rel=0)


@pytest.mark.parametrize("precision", [Precision.BF16, *FP8])
def test_kill_then_restart_continues_the_curve(precision: Precision, start: Path, tmp_path: Path) -> None:
    whole = _run(Job(tmp_path / "whole", _recipe(precision, every_steps=4), start, 14 * BATCH))
    job = Job(tmp_path / "killed", _recipe(precision, every_steps=4), start, 14 * BATCH, pause_at_step=11)
    ranks = processes.start(job, 1)
    processes.wait_for([job.folder / "paused-0"], ranks)
    processes.kill(ranks)
    (job.folder / "paused-0").unlink()
    again = Job(job.folder, job.recipe, start, job.end_tokens)
    continued = _run(again)
    assert f"at {8 * BATCH} tokens" in processes.log(again)
    assert continued == pytest.approx(whole, abs=5e-3, rel=0)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP8_BLOCKWISE])
def test_checkpoint_goes_to_a_cpu_and_back(precision: Precision, start: Path, tmp_path: Path) -> None:
    on_cpu = Precision.FP32 if precision is Precision.FP32 else Precision.BF16
    first = Job(tmp_path / "gpu", _recipe(precision), start, 20 * BATCH)
    second = Job(tmp_path / "cpu", _recipe(on_cpu), first.folder / FINAL, 24 * BATCH)
    third = Job(tmp_path / "back", _recipe(precision), second.folder / FINAL, 28 * BATCH)
    whole = _run(Job(tmp_path / "whole", _recipe(precision), start, 28 * BATCH))
    parts = [*_run(first), *_run(second, CUDA_VISIBLE_DEVICES=""), *_run(third)]
    assert parts == pytest.approx(whole, abs=0.05, rel=0)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP8_BLOCKWISE])
def test_every_weight_of_a_gpu_checkpoint_is_exported(precision: Precision, start: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", _recipe(precision), start, 2 * BATCH)
    _run(job)
    checkpoint, used = ShardedCheckpoint(job.folder / FINAL), set()
    for piece in correspondences(job.recipe.model, family_of(job.recipe.model)):
        tensors = piece.split(checkpoint.read(piece.megatron, piece.index))
        used.add(piece.megatron)
        assert all(torch.isfinite(tensor).all() for tensor in tensors)
    assert used == {name for name in checkpoint.weights() if "_extra_state" not in name}
