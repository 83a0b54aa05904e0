"""Update rules: what each keeps of a parameter, that each learns, and that a stopped run ends in the same bytes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.models.huggingface import configuration
from athanor.recipe.schema.choices import OptimizerName
from athanor.recipe.schema.training import Optimizer, Zero
from athanor.training.optimizers import build_fused, build_optimizer, hidden_matrices, state_bytes
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import model, recipe
from tests.training.synthetic import LENGTH

# Bytes a parameter in float32, without the counters of steps: moments of 4 bytes each.
KEPT = {"adamw": 8.0, "lion": 4.0, "adan": 16.0, "sophia": 8.0, "lomo": 0.0}
STEPS = 6


def _module() -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    shape = model(num_experts=0, hidden_size=64, expert_ffn_size=128)
    return AutoModelForCausalLM.from_config(configuration(shape, torch.float32, None, None))


def _kept(name: OptimizerName) -> float:
    """Bytes a parameter behind one step."""
    module, settings = _module(), Optimizer(name=name)
    tokens = torch.arange(32)[None] % 7
    loss = module(input_ids=tokens, labels=tokens).loss
    if name.is_fused:
        optimizer = build_fused(module, settings)
        optimizer.grad_norm(loss)
        optimizer.fused_backward(loss, 1e-3)
    else:
        optimizer = build_optimizer(module, settings)
        loss.backward()
        optimizer.step()
    counters = sum(t.numel() * t.element_size() for s in optimizer.state.values() for n, t in s.items() if n == "step")
    return (state_bytes(optimizer) - counters) / sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("name", KEPT)
def test_state_bytes_a_parameter_are_the_rules_moments(name: str) -> None:
    assert _kept(OptimizerName(name)) == pytest.approx(KEPT[name], abs=0.01)


def test_adalomo_keeps_at_most_a_tenth_of_adamws_state() -> None:
    assert 0 < _kept(OptimizerName.ADALOMO) <= 0.1 * _kept(OptimizerName.ADAMW)


def test_muon_keeps_one_moment_of_hidden_matrices_and_two_of_the_rest() -> None:
    module = _module()
    hidden, every = (sum(w.numel() for w in weights) for weights in (hidden_matrices(module), module.parameters()))
    assert 0 < hidden < every
    assert _kept(OptimizerName.MUON) == pytest.approx((4 * hidden + 8 * (every - hidden)) / every, abs=0.01)


# By rule: its ranks, ZeRO stage, rate, and what else it needs.
RUNS: dict[str, tuple[int, int, float, dict[str, Any]]] = {
    "lion": (2, 2, 1e-3, {}),
    "adan": (2, 3, 5e-3, {}),
    "sophia": (2, 1, 5e-3, {"beta1": 0.965, "beta2": 0.99, "estimate_every_steps": 2}),
    "muon": (2, 0, 5e-3, {}),
    "lomo": (1, 0, 0.3, {"weight_decay": 0.0}),
    "adalomo": (1, 0, 2e-2, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("optimizers") / "model"
    _module().save_pretrained(path)
    return path


@pytest.mark.parametrize("name", RUNS)
def test_rule_learns_and_a_stopped_run_ends_in_the_same_bytes(name: str, folder: Path, tmp_path: Path) -> None:
    ranks, stage, lr, keys = RUNS[name]
    batch = LENGTH if OptimizerName(name).is_fused else 8 * LENGTH
    optimizer = Optimizer(name=OptimizerName(name), **keys)
    settings = recipe(ranks, optimizer=optimizer, lr=lr, batch_tokens=batch, warmup_tokens=0, parallel={"micro_batch_size": 1})
    steps = 60 if OptimizerName(name).is_fused else STEPS
    whole = ModuleJob(tmp_path / "whole", settings, folder, Zero(stage=stage), steps * batch)
    assert program.run(whole, ranks) == [0] * ranks, program.log(whole)
    validation = [json.loads((whole.folder / f"validation{when}.json").read_text()) for when in ("_start", "")]
    assert all(validation[1][d]["nats_per_token"] < validation[0][d]["nats_per_token"] - 0.1 for d in validation[0])
    stopped = replace(whole, folder=tmp_path / "stopped", stop_after=3 * batch // LENGTH)
    assert program.run(stopped, ranks) == [75] * ranks, program.log(stopped)
    assert program.run(replace(stopped, stop_after=0), ranks) == [0] * ranks, program.log(stopped)
    for file in ("curve.jsonl", "validation.json", "model/model.safetensors"):
        assert (stopped.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
