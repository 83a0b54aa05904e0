"""The loop through DeepSpeed: ZeRO 0 to 3 in fp32 and bf16 train alike, and what is killed goes on to the last bit."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from athanor.recipe.families import family_of
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Model, Zero
from athanor.training.checkpoints import FINAL
from tests.training import module_program as program
from tests.training import processes
from tests.training.module_program import ModuleJob
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 6
# Against ZeRO 1 over six steps. Measured: losses (nats) 2.6e-8 and 1.1e-4 at most, norms 2.1e-7 and 4.6e-4 (relative). In bf16
# stages 2 and 3 add up micro-batches otherwise than 0 and 1, which agree to the last bit.
TOLERANCES = {Precision.FP32: 2e-7, Precision.BF16: 5e-4}
OF_NORM = {Precision.FP32: 1e-6, Precision.BF16: 2e-3}
BACKENDS = 2e-7  # nats, Megatron against DeepSpeed; measured 2.6e-8
CASES = [(precision, stage) for precision in TOLERANCES for stage in range(4)]


def _recipe(ranks: int, precision: Precision = Precision.FP32) -> Recipe:
    return recipe(ranks, precision=precision, every_steps=2, model={"num_experts": 0}, parallel={"micro_batch_size": 2})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of random weights, fewer than 20,000."""
    from transformers import AutoModelForCausalLM

    from athanor.models.huggingface import configuration

    path = tmp_path_factory.mktemp("huggingface") / "model"
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(configuration(_recipe(1).model, torch.float32, None, None)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Callable[[Precision, int], Path]:
    """The folder of an undisturbed run on two ranks, made once."""
    made: dict[tuple[Precision, int], Path] = {}

    def of(precision: Precision, stage: int) -> Path:
        if (precision, stage) not in made:
            path = tmp_path_factory.mktemp(f"zero{stage}") / precision.value
            job = ModuleJob(path, _recipe(2, precision), folder, Zero(stage=stage), STEPS * BATCH)
            assert program.run(job, 2) == [0, 0], program.log(job)
            made[precision, stage] = path
        return made[precision, stage]

    return of


def _exported(checkpoint: Path, model: Model, into: Path) -> Path:
    """Megatron's weights as a Hugging Face folder, without a tokenizer."""
    from athanor.models.conversions import correspondences
    from athanor.models.huggingface import configuration
    from athanor.models.weight_files import headers, open_checkpoint, plan_shards, write_weights

    configuration(model, torch.float32, None, None).save_pretrained(into)
    table = list(correspondences(model, family_of(model)))
    layout = headers(plan_shards(table, 4, 10**9), lambda _: torch.float32)
    write_weights(into, layout, open_checkpoint(checkpoint, model, table), table, lambda done, total: None)
    return into


def _curve(run: Path, key: str) -> list[float]:
    return [json.loads(line)[key] for line in (run / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("precision", "stage"), CASES)
def test_zero_stages_lose_and_clip_alike(precision: Precision, stage: int, trained: Callable[[Precision, int], Path]) -> None:
    reference, run = trained(precision, 1), trained(precision, stage)
    assert _curve(run, "loss") == pytest.approx(_curve(reference, "loss"), abs=TOLERANCES[precision], rel=0)
    assert _curve(run, "grad_norm") == pytest.approx(
        _curve(reference, "grad_norm"), rel=2e-2 if precision.value == "bf16" else 1e-5
    )
    assert _curve(run, "lr") == _curve(reference, "lr")
    losses = _curve(run, "loss")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("precision", "stage"), CASES)
def test_stopped_run_ends_in_the_same_bytes(
    precision: Precision, stage: int, trained: Callable[[Precision, int], Path], folder: Path, tmp_path: Path
) -> None:
    """Asked to stop in its third step it saves behind it; what is started again ends as if nothing had happened."""
    whole = trained(precision, stage)
    job = ModuleJob(tmp_path / "run", _recipe(2, precision), folder, Zero(stage=stage), STEPS * BATCH, stop_after=17)
    assert program.run(job, 2) == [75, 75], program.log(job)
    assert (job.folder / "checkpoints" / "step-000000003" / "state.json").is_file()
    again = replace(job, stop_after=0)
    assert program.run(again, 2) == [0, 0], program.log(again)
    assert "continuing from" in program.log(again)
    for name in ("curve.jsonl", "validation.json", "validation_start.json", "model/model.safetensors"):
        assert (job.folder / name).read_bytes() == (whole / name).read_bytes(), name
    found, expected = (json.loads((run / "checkpoint" / "state.json").read_text()) for run in (job.folder, whole))
    assert found == expected, "every file of the last checkpoint has the same sha256"


@pytest.mark.parametrize("precision", TOLERANCES)
def test_exported_folder_loads_and_says_what_was_measured(
    precision: Precision, trained: Callable[[Precision, int], Path]
) -> None:
    """From weights that stage 3 had spread over two ranks."""
    from transformers import AutoModelForCausalLM

    from athanor.training.deepspeed.language import measured
    from athanor.training.deepspeed.windows import response_losses
    from tests.training.synthetic import packed_held_out

    run = trained(precision, 3)
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.dtype == torch.float32
    told = json.loads((run / "validation.json").read_text())
    for domain, held_out in packed_held_out().items():
        held = measured(held_out)
        batch = held.batches.batch(range(held.samples))
        with torch.no_grad():
            mean = float(response_losses(model, batch).sum() / batch.weights.sum())
        assert mean == pytest.approx(told[domain]["nats_per_token"], abs=1e-6 if precision is Precision.FP32 else 5e-3)
        assert told[domain]["tokens"] == int(batch.weights.sum())


def test_one_rank_and_two_lose_alike(trained: Callable[[Precision, int], Path], folder: Path, tmp_path: Path) -> None:
    job = ModuleJob(tmp_path / "alone", _recipe(1), folder, Zero(stage=0), STEPS * BATCH)
    assert program.run(job) == [0], program.log(job)
    reference = trained(Precision.FP32, 1)
    assert _curve(job.folder, "loss") == pytest.approx(_curve(reference, "loss"), abs=TOLERANCES[Precision.FP32], rel=0)
    for domain, loss in json.loads((reference / "validation.json").read_text()).items():
        found = json.loads((job.folder / "validation.json").read_text())[domain]
        assert found["nats_per_token"] == pytest.approx(loss["nats_per_token"], abs=TOLERANCES[Precision.FP32])
        assert found["tokens"] == loss["tokens"]


def test_offloaded_optimizer_trains_as_one_that_is_not(
    trained: Callable[[Precision, int], Path], folder: Path, tmp_path: Path
) -> None:
    job = ModuleJob(tmp_path / "run", _recipe(2), folder, Zero(stage=2, offload=True), STEPS * BATCH)
    assert program.run(job, 2) == [0, 0], program.log(job)
    reference = trained(Precision.FP32, 2)
    assert _curve(job.folder, "loss") == pytest.approx(_curve(reference, "loss"), abs=TOLERANCES[Precision.FP32], rel=0)


def test_damaged_save_is_set_aside_for_the_one_before(
    trained: Callable[[Precision, int], Path], folder: Path, tmp_path: Path
) -> None:
    whole = trained(Precision.FP32, 2)
    job = ModuleJob(tmp_path / "run", _recipe(2), folder, Zero(stage=2), STEPS * BATCH, stop_after=33)
    assert program.run(job, 2) == [75, 75], program.log(job)
    saves = sorted(path.name for path in (job.folder / "checkpoints").iterdir())
    assert saves == ["step-000000004", "step-000000005"], "two are kept, and nothing else lies there"
    part = next((job.folder / "checkpoints" / saves[-1]).glob("*optim_states.pt"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert program.run(replace(job, stop_after=0), 2) == [0, 0], program.log(job)
    assert [path.name for path in (job.folder / "quarantined").glob("step-*") if path.is_dir()] == ["step-000000005-1"]
    assert (job.folder / "curve.jsonl").read_bytes() == (whole / "curve.jsonl").read_bytes()


def test_save_of_another_layout_is_refused_by_name(
    trained: Callable[[Precision, int], Path], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained(Precision.FP32, 2), tmp_path / "run")
    job = ModuleJob(tmp_path / "run", _recipe(1), folder, Zero(stage=2), 2 * STEPS * BATCH)
    assert program.run(job) == [1]
    assert "ranks 2, zero 2" in program.log(job)
    assert "this job has backend deepspeed, ranks 1" in program.log(job)


def test_loss_that_is_no_number_ends_the_run_before_a_weight_is_touched(folder: Path, tmp_path: Path) -> None:
    job = ModuleJob(tmp_path / "run", _recipe(2), folder, Zero(stage=1), STEPS * BATCH, poisoned=20)
    assert program.run(job, 2) == [1, 1]
    assert "error (non-finite loss): loss nan at step 3, samples 16 to 23" in program.log(job)
    assert len(_curve(job.folder, "loss")) <= 2
    assert not (job.folder / "model").exists()


def test_spool_tells_rates_parts_domains_and_validation(trained: Callable[[Precision, int], Path]) -> None:
    [spool] = (trained(Precision.FP32, 3) / "tracking").iterdir()
    for word in (
        '"loss/even"',
        '"loss/odd"',
        '"tokens_per_second"',
        '"step_seconds/optimizer"',
        '"validation/odd/bits_per_byte"',
    ):
        assert word in spool.read_text(), word


def test_megatron_and_deepspeed_train_alike_on_packed_windows(tmp_path: Path) -> None:
    """A dense model on the same windows by the same schedule, on two data ranks each, from the same weights."""
    settings = recipe(2, model={"num_experts": 0}, parallel={"micro_batch_size": 1})
    fresh = Job(tmp_path / "fresh", recipe(1, model={"num_experts": 0}))
    assert processes.run(fresh) == [0], processes.log(fresh)
    megatron = Job(tmp_path / "megatron", settings, fresh.folder / FINAL, STEPS * BATCH, packed=True)
    assert processes.run(megatron, 2) == [0, 0], processes.log(megatron)
    folder = _exported(fresh.folder / FINAL, settings.model, tmp_path / "exported")
    deepspeed = ModuleJob(tmp_path / "deepspeed", settings, folder, Zero(stage=2), STEPS * BATCH)
    assert program.run(deepspeed, 2) == [0, 0], program.log(deepspeed)
    for key in ("tokens", "lr"):
        assert _curve(deepspeed.folder, key) == _curve(megatron.folder, key)
    assert _curve(deepspeed.folder, "loss") == pytest.approx(_curve(megatron.folder, "loss"), abs=BACKENDS, rel=0)
    assert _curve(deepspeed.folder, "grad_norm") == pytest.approx(_curve(megatron.folder, "grad_norm"), rel=1e-4)
    for name in ("validation_start.json", "validation.json"):
        found, expected = (json.loads((job.folder / name).read_text()) for job in (deepspeed, megatron))
        for domain, loss in expected.items():
            assert found[domain]["tokens"] == loss["tokens"]
            assert found[domain]["nats_per_token"] == pytest.approx(loss["nats_per_token"], abs=BACKENDS)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    yield
