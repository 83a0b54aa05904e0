"""Adapters: few weights learn, the rest stays, a stopped run ends in the same bytes, and what is merged says the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from athanor.models.huggingface import configuration
from athanor.recipe.schema.choices import PeftKind, Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Optimizer, Peft, Zero
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import BATCH, recipe

STEPS = 6
KINDS = {  # ranks, ZeRO stage, rate
    PeftKind.LORA: (2, 3, 2e-2),
    PeftKind.QLORA: (2, 2, 2e-2),
    PeftKind.DORA: (2, 2, 2e-2),
    PeftKind.IA3: (1, 1, 1e-1),
}
ROUNDED = 1e-6  # of logits, between four bits and the numbers that they stand for; measured 0, and 0.14 to the start
MERGED = 4e-7  # nats between what was trained and what was merged; measured 4.6e-8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("adapters") / "model"
    torch.manual_seed(3)
    shape = recipe(1, model={"num_experts": 0}).model
    AutoModelForCausalLM.from_config(configuration(shape, torch.float32, None, None)).save_pretrained(path)
    return path


def _recipe(ranks: int, lr: float) -> Recipe:
    return recipe(ranks, lr=lr, warmup_tokens=0, optimizer=Optimizer(weight_decay=0.0), parallel={"micro_batch_size": 2})


def _learn_and_resume(whole: ModuleJob, ranks: int) -> dict[str, dict[str, float]]:
    """Run the job, and once more with a stop in between, to the same bytes. Returns its last validation, by domain."""
    assert program.run(whole, ranks) == [0] * ranks, program.log(whole)
    begin, end = (json.loads((whole.folder / f"validation{when}.json").read_text()) for when in ("_start", ""))
    assert all(end[domain]["nats_per_token"] < begin[domain]["nats_per_token"] - 0.01 for domain in begin)

    stopped = replace(whole, folder=whole.folder.with_name("stopped"), stop_after=17)
    assert program.run(stopped, ranks) == [75] * ranks, program.log(stopped)
    assert program.run(replace(stopped, stop_after=0), ranks) == [0] * ranks, program.log(stopped)
    for file in ("curve.jsonl", "validation.json", "model/model.safetensors", "model/adapter/adapter_model.safetensors"):
        assert (stopped.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
    validation: dict[str, dict[str, float]] = end
    return validation


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_learns_merges_and_resumes(kind: PeftKind, folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from athanor.training.deepspeed.four_bits import read_in_four_bits
    from athanor.training.deepspeed.language import measured
    from athanor.training.deepspeed.windows import response_losses
    from tests.training.synthetic import packed_held_out

    ranks, stage, lr = KINDS[kind]
    whole = ModuleJob(tmp_path / "whole", _recipe(ranks, lr), folder, Zero(stage=stage), STEPS * BATCH, peft=Peft(kind=kind))
    end = _learn_and_resume(whole, ranks)
    merged = AutoModelForCausalLM.from_pretrained(whole.folder / "model")
    start = read_in_four_bits(folder, Precision.FP32) if kind is PeftKind.QLORA else AutoModelForCausalLM.from_pretrained(folder)
    beside = PeftModel.from_pretrained(start, str(whole.folder / "model" / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(merged.model.embed_tokens.weight, base.model.embed_tokens.weight), "what is not adapted stays"
    for domain, held_out in packed_held_out().items():
        held = measured(held_out)
        batch = held.batches.batch(range(held.samples))
        for model in (merged, beside):
            with torch.no_grad():
                mean = float(response_losses(model, batch).sum() / batch.weights.sum())
            assert mean == pytest.approx(end[domain]["nats_per_token"], abs=MERGED)


def test_four_bits_stand_for_the_numbers_that_are_merged_into(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from athanor.training.deepspeed.four_bits import read_in_four_bits, round_to_four_bits

    start, whole = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    rounded = read_in_four_bits(folder, Precision.FP32).eval()
    round_to_four_bits(whole, folder)
    kept, exact = (model.model.layers[0].mlp.up_proj.weight for model in (rounded, start))
    assert kept.nbytes == exact.numel() / 2 and kept.dtype is torch.uint8
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        said, meant, before = (model(input_ids=ids).logits for model in (rounded, whole, start))
    assert (said - meant).abs().max() < ROUNDED < (said - before).abs().max(), "the start's own numbers are others"


@pytest.mark.parametrize(("ranks", "stage", "precision"), [(1, 0, Precision.FP32), (2, 1, Precision.BF16)])
def test_four_bits_are_trained_beside_in_other_layouts_and_precisions(
    ranks: int, stage: int, precision: Precision, folder: Path, tmp_path: Path
) -> None:
    settings = _recipe(ranks, 2e-2)
    settings.pretrain.precision = precision
    _learn_and_resume(
        ModuleJob(tmp_path / "whole", settings, folder, Zero(stage=stage), STEPS * BATCH, peft=Peft(PeftKind.QLORA)), ranks
    )
