"""Through DeepSpeed: a checkpoint that is not what was trained is set aside by name, and nothing that is no number is saved."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.training.checkpoints import FINAL, SAVES, STATE
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import BATCH, recipe
from tests.training.synthetic import LENGTH

STEPS, STOPPED_AT = 6, 5  # so the newest checkpoints are those of steps 5 and 4
SAMPLES = BATCH // LENGTH  # of a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM

    from athanor.models.huggingface import configuration

    path = tmp_path_factory.mktemp("proof") / "model"
    torch.manual_seed(3)
    shape = recipe(1, model={"num_experts": 0}).model
    AutoModelForCausalLM.from_config(configuration(shape, torch.float32, None, None)).save_pretrained(path)
    return path


def _job(path: Path, folder: Path, **keys: Any) -> ModuleJob:
    settings = recipe(1, every_steps=2, model={"num_experts": 0})
    return ModuleJob(path, settings, folder, program.Zero(stage=1), STEPS * BATCH, **keys)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    job = _job(tmp_path_factory.mktemp("undisturbed") / "run", folder)
    assert program.run(job) == [0], program.log(job)
    return job.folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> ModuleJob:
    job = _job(tmp_path_factory.mktemp("stopped") / "run", folder, stop_after=STOPPED_AT * SAMPLES - 1)
    assert program.run(job) == [75], program.log(job)
    assert sorted(path.name for path in (job.folder / SAVES).iterdir()) == ["step-000000004", "step-000000005"]
    return job


def _copy(stopped: ModuleJob, folder: Path) -> ModuleJob:
    shutil.copytree(stopped.folder, folder)
    return replace(stopped, folder=folder, stop_after=0)


def _save(job: ModuleJob, step: int) -> Path:
    return job.folder / SAVES / f"step-{step:09d}"


def _rehash(save: Path, change: Callable[[dict[str, Any]], None] = lambda proof: None) -> None:
    """Make the hashes agree again: the damage is one that hashing cannot see."""
    from athanor.artifacts.files import sha256_of

    state = json.loads((save / STATE).read_text())
    change(state["proof"])
    state["files"] = {name: sha256_of(save / name) for name in state["files"]}
    (save / STATE).write_text(json.dumps(state))


def _other_weights(save: Path) -> None:
    [path] = save.glob("*model_states.pt")
    data = torch.load(path, weights_only=False)
    next(iter(data["module"].values())).mul_(1.01)
    torch.save(data, path)
    _rehash(save)


def _other_step(save: Path) -> None:
    for path in save.with_name("step-000000004").iterdir():
        if path.name != STATE:
            shutil.copy(path, save / path.name)
    _rehash(save)


def _other_moments(save: Path) -> None:
    _rehash(save, lambda proof: proof["moments"].__setitem__(1, 2 * proof["moments"][1]))


def _other_samples(save: Path) -> None:
    _rehash(save, lambda proof: proof.update(first_sample=proof["first_sample"] + 8, end_sample=proof["end_sample"] + 8))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "other weights": (_other_weights, "the loss of samples 32 to 39 is"),
    "state of another step": (_other_step, "its optimizer has made 4 updates, 5 when it was saved"),
    "moments of another size": (_other_moments, "the norm of its exp_avg_sq is"),
    "other samples": (_other_samples, "the loss of samples 40 to 47 is"),
}


def _assert_same(job: ModuleJob, undisturbed: Path) -> None:
    for file in ("curve.jsonl", "validation.json", "model/model.safetensors", f"{FINAL}/{STATE}"):
        assert (job.folder / file).read_bytes() == (undisturbed / file).read_bytes(), file


@pytest.mark.parametrize("name", DAMAGE)
def test_save_that_is_not_what_was_trained_is_set_aside_for_the_one_before(
    name: str, undisturbed: Path, stopped: ModuleJob, tmp_path: Path
) -> None:
    damage, words = DAMAGE[name]
    job = _copy(stopped, tmp_path / "run")
    damage(_save(job, 5))
    assert program.run(job) == [0], program.log(job)
    evidence = json.loads((job.folder / "quarantined" / "step-000000005-1.json").read_text())
    assert f"is not what was saved: {words}" in evidence["why"]
    assert f"continuing from {_save(job, 4)}" in program.log(job) and "step-000000005 at" not in program.log(job)
    _assert_same(job, undisturbed)


def test_with_no_save_left_training_begins_anew_from_its_start(undisturbed: Path, stopped: ModuleJob, tmp_path: Path) -> None:
    job = _copy(stopped, tmp_path / "run")
    for step in (4, 5):
        _other_weights(_save(job, step))
    assert program.run(job) == [0], program.log(job)
    assert len(list((job.folder / "quarantined").glob("step-*.json"))) == 2
    assert "continuing from" not in program.log(job)
    _assert_same(job, undisturbed)


def test_gradient_that_is_no_number_is_never_saved_and_the_next_attempt_rolls_back(
    undisturbed: Path, folder: Path, tmp_path: Path
) -> None:
    """The loss of step 6 is a number, its gradient is none: DeepSpeed says so when it has updated. By the word that it ends with
    the executor rolls back (tests/cluster/test_policy.py)."""
    job = _job(tmp_path / "run", folder, steep=STOPPED_AT * SAMPLES)
    assert program.run(job) == [1]
    assert "error (non-finite loss): gradient norm" in program.log(job) and "at step 6, samples 40 to 47" in program.log(job)
    assert len((job.folder / "curve.jsonl").read_text().splitlines()) <= STOPPED_AT
    assert not (job.folder / "model").exists() and not (job.folder / FINAL).exists()
    saves = sorted((job.folder / SAVES).iterdir())
    assert [save.name for save in saves] == ["step-000000002", "step-000000004"]
    for path in (job.folder / SAVES).rglob("*_states.pt"):
        assert _finite(torch.load(path, weights_only=False)), path
    again = replace(job, steep=-1, roll_back=True)
    assert program.run(again) == [0], program.log(again)
    assert f"continuing from {_save(job, 2)}" in program.log(again)
    _assert_same(again, undisturbed)


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all()) if value.is_floating_point() else True
    if isinstance(value, dict):
        return all(_finite(each) for each in value.values())
    return all(_finite(each) for each in value) if isinstance(value, list | tuple) else True
