"""Megatron learns from answers as DeepSpeed does, in every layout, killed or not, and hands its weights over whole."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from athanor.models.huggingface import export
from athanor.recipe.schema.choices import Backend, Precision
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.recipe import Export, Recipe
from athanor.recipe.schema.training import Checkpoint, Parallel
from athanor.training.checkpoints import FINAL
from tests.external.test_trl import tokenizer
from tests.training import processes
from tests.training.given_answers import ROUNDS, SAMPLES
from tests.training.layouts import LAYOUTS
from tests.training.program import Job
from tests.training.recipes import recipe
from tests.training.synthetic import LENGTH

__all__ = ["tokenizer"]  # a fixture
BATCH = 8 * LENGTH
STEPS = 8  # two rounds
SPREAD = ["data 2", "expert 2", "pipeline 2, interleaved", "tensor 2, expert 2"]


def learner(ranks: int = 1, *, parallel: dict[str, Any] | None = None, **keys: Any) -> Recipe:
    """Four layers of four experts, whose router is frozen and unbalanced, as the stage has it."""
    online = Online(
        **{
            "sequence_length": LENGTH,
            "batch_tokens": BATCH,
            "token_budget": STEPS * BATCH,
            "warmup_tokens": 0,
            "decay_tokens": 0,
            "lr": 3e-3,
            "freeze": ["mlp.router"],
            "parallel": Parallel(**{"ranks": ranks, "micro_batch_size": 2, **(parallel or {})}),
            "checkpoint": Checkpoint(every_tokens=3 * BATCH, keep=2),
            "log_every_steps": 2,
            **keys,
        }
    )
    shape = {"num_layers": 4, "aux_loss_coefficient": 0.0}
    return replace(recipe(ranks, model=shape), online=online)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights."""
    job = Job(tmp_path_factory.mktemp("initialize") / "artifact", learner())
    assert processes.run(job) == [0], processes.log(job)
    return job.folder / FINAL


@pytest.fixture(scope="module")
def exported(start: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as `transformers` reads them."""
    folder = tmp_path_factory.mktemp("exported")
    export(start, tokenizer, folder, learner().model, Export(dtype=Precision.FP32), lambda _done, _of: None, chat=True)
    assert GenerationConfig.from_pretrained(folder).eos_token_id is not None
    return folder


def learn(folder: Path, start: Path, exported: Path, told: Recipe, **keys: Any) -> Path:
    job = Job(folder, told, start, answers=exported, **keys)
    ranks = told.online.parallel.ranks
    assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    return folder


@pytest.fixture(scope="module")
def alone(start: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learn(tmp_path_factory.mktemp("alone") / "artifact", start, exported, learner())


def curve(folder: Path, key: str) -> list[float]:
    return [json.loads(line)[key] for line in (folder / "curve.jsonl").read_text().splitlines()]


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]


def said(one: dict[str, Any]) -> list[float]:
    return [value for row in one["said"] for value in row]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def test_both_backends_learn_the_same(alone: Path, start: Path, exported: Path, tmp_path: Path) -> None:
    other = learn(tmp_path / "deepspeed", start, exported, learner(), backend=Backend.DEEPSPEED)
    assert said(rounds(alone)[0]) == pytest.approx(said(rounds(other)[0]), abs=1e-5)
    assert said(rounds(alone)[1]) == pytest.approx(said(rounds(other)[1]), abs=2e-4)
    assert abs(said(rounds(alone)[0])[0] - said(rounds(alone)[1])[0]) > 1e-2, "something was learnt"
    assert curve(alone, "loss") == pytest.approx(curve(other, "loss"), abs=2e-4)
    assert curve(alone, "grad_norm") == pytest.approx(curve(other, "grad_norm"), rel=2e-3)
    one, two = weights(alone), weights(other)
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-3
    before = {name: weight for name, weight in _loaded(exported).items() if name.endswith("mlp.gate.weight")}
    assert len(before) == 4 and all(weight.equal(one[name]) for name, weight in before.items()), "routers stay"


def test_step_without_anything_to_learn_changes_nothing(alone: Path) -> None:
    nothing = [step for step, norm in enumerate(curve(alone, "grad_norm"), start=1) if not norm]
    assert nothing == [1, 2, 5, 6] and [curve(alone, "loss")[step - 1] for step in nothing] == [0] * 4


@pytest.mark.parametrize("name", SPREAD)
def test_every_layout_says_learns_and_hands_over_the_same(
    name: str, alone: Path, start: Path, exported: Path, tmp_path: Path
) -> None:
    sizes = LAYOUTS[name]
    folder = learn(tmp_path / "spread", start, exported, learner(sizes.ranks, parallel=sizes.parallel))
    first, second = rounds(folder)
    assert first["has"] == rounds(alone)[0]["has"], "weights that nothing has been learnt by are the same to the last bit"
    assert said(first) == pytest.approx(said(rounds(alone)[0]), abs=1e-5)
    assert said(second) == pytest.approx(said(rounds(alone)[1]), abs=1e-4)
    assert curve(folder, "loss") == pytest.approx(curve(alone, "loss"), abs=1e-4)
    assert curve(folder, "grad_norm") == pytest.approx(curve(alone, "grad_norm"), rel=1e-3)
    files = {path.name for path in (folder / "model").iterdir()}
    assert files == {path.name for path in (alone / "model").iterdir()} and "generation_config.json" in files
    assert not (folder / "weights").exists(), "what rounds were answered with is gone"


def test_kill_in_the_middle_of_a_round_ends_in_the_same_bytes(start: Path, exported: Path, tmp_path: Path) -> None:
    told = learner(2, parallel={"expert": 2}, drop_norms=0.1)
    whole = learn(tmp_path / "whole", start, exported, told)
    job = Job(tmp_path / "killed", told, start, answers=exported, pause_at_step=6)
    ranks = processes.start(job, 2)
    processes.wait_for([job.folder / "paused-0", job.folder / "paused-1"], ranks)
    processes.kill(ranks)
    again = learn(job.folder, start, exported, told)
    assert f"at {3 * BATCH} tokens" in processes.log(job) and "off by 0.0" in processes.log(job)
    for file in (ROUNDS, "curve.jsonl", "model/model.safetensors", "validation.json"):
        assert (again / file).read_bytes() == (whole / file).read_bytes(), file


def test_kill_behind_a_save_before_anything_was_learnt_ends_in_the_same_bytes(
    alone: Path, start: Path, exported: Path, tmp_path: Path
) -> None:
    told = learner(checkpoint=Checkpoint(every_tokens=BATCH, asynchronous=False))
    job = Job(tmp_path / "killed", told, start, answers=exported, pause_at_step=3)
    ranks = processes.start(job, 1)
    processes.wait_for([job.folder / "paused-0"], ranks)
    processes.kill(ranks)
    again = learn(job.folder, start, exported, told)
    assert f"at {BATCH} tokens" in processes.log(job)
    for file in (ROUNDS, "curve.jsonl", "model/model.safetensors"):
        assert (again / file).read_bytes() == (alone / file).read_bytes(), file


def test_stage_whose_answers_fail_goes_on_however_many_steps_it_has_made(
    alone: Path, start: Path, exported: Path, tmp_path: Path
) -> None:
    told = learner(checkpoint=Checkpoint(every_tokens=0))
    job = Job(tmp_path / "failed", told, start, answers=exported)
    job.folder.mkdir()
    (job.folder / "away").touch()
    assert processes.run(job) == [1] and "nobody answers" in processes.log(job)
    (job.folder / "away").unlink()
    again = learn(job.folder, start, exported, told)
    for file in (ROUNDS, "curve.jsonl", "model/model.safetensors"):
        assert (again / file).read_bytes() == (alone / file).read_bytes(), file


def test_folder_of_the_end_is_what_the_checkpoint_exports(alone: Path, tokenizer: Path, tmp_path: Path) -> None:
    export(alone / FINAL, tokenizer, tmp_path, learner().model, Export(dtype=Precision.FP32), lambda _d, _o: None, chat=True)
    theirs, ours = _loaded(tmp_path), weights(alone)
    assert theirs.keys() == ours.keys() and all(weight.equal(ours[name]) for name, weight in theirs.items())
    assert len(rounds(alone)) == STEPS * 8 // SAMPLES
    shutil.rmtree(tmp_path)


def _loaded(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
