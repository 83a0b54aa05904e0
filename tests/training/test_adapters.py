"""Adapters: few weights learn, the rest stays, a stopped run ends in the same bytes, and what is merged says the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from athanor.models.huggingface import configuration
from athanor.recipe.schema.choices import PeftKind
from athanor.recipe.schema.training import Optimizer, Peft, Zero
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import BATCH, recipe

STEPS = 6
KINDS = {PeftKind.LORA: (2, 3, 2e-2), PeftKind.DORA: (2, 2, 2e-2), PeftKind.IA3: (1, 1, 1e-1)}  # ranks, ZeRO stage, rate
MERGED = 4e-7  # nats between what was trained and what was merged; measured 4.6e-8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("adapters") / "model"
    torch.manual_seed(3)
    shape = recipe(1, model={"num_experts": 0}).model
    AutoModelForCausalLM.from_config(configuration(shape, torch.float32, None, None)).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_learns_merges_and_resumes(kind: PeftKind, folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from athanor.training.deepspeed.language import measured
    from athanor.training.deepspeed.windows import response_losses
    from tests.training.synthetic import packed_held_out

    ranks, stage, lr = KINDS[kind]
    settings = recipe(ranks, lr=lr, warmup_tokens=0, optimizer=Optimizer(weight_decay=0.0), parallel={"micro_batch_size": 2})
    whole = ModuleJob(tmp_path / "whole", settings, folder, Zero(stage=stage), STEPS * BATCH, peft=Peft(kind=kind))
    assert program.run(whole, ranks) == [0] * ranks, program.log(whole)
    start, end = (json.loads((whole.folder / f"validation{when}.json").read_text()) for when in ("_start", ""))
    assert all(end[domain]["nats_per_token"] < start[domain]["nats_per_token"] - 0.01 for domain in start)

    stopped = replace(whole, folder=tmp_path / "stopped", stop_after=17)
    assert program.run(stopped, ranks) == [75] * ranks, program.log(stopped)
    assert program.run(replace(stopped, stop_after=0), ranks) == [0] * ranks, program.log(stopped)
    for file in ("curve.jsonl", "validation.json", "model/model.safetensors", "model/adapter/adapter_model.safetensors"):
        assert (stopped.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file

    merged = AutoModelForCausalLM.from_pretrained(whole.folder / "model")
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(whole.folder / "model" / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(merged.model.embed_tokens.weight, base.model.embed_tokens.weight), "what is not adapted stays"
    for domain, held_out in packed_held_out().items():
        held = measured(held_out)
        batch = held.batches.batch(range(held.samples))
        for model in (merged, beside):
            with torch.no_grad():
                mean = float(response_losses(model, batch).sum() / batch.weights.sum())
            assert mean == pytest.approx(end[domain]["nats_per_token"], abs=MERGED)
