"""Packed conversations: none sees another, responses alone count, in every layout, killed or not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athanor.recipe.schema.choices import Recompute
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Parallel
from athanor.training.batches import micro_batch
from athanor.training.layout import Layout, process_groups
from athanor.training.objective import NextToken
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, model, recipe
from tests.training.synthetic import LENGTH, Packed, PackedChains

TOLERANCE = 1e-6  # nats
STEPS = 6
LAYOUTS = {
    "data 2": (2, {}),
    "expert 2": (2, {"expert": 2}),
    "tensor 2": (2, {"tensor": 2}),
    "pipeline 2": (2, {"pipeline": 2}),
    "recompute full": (1, {"recompute": Recompute.FULL}),
}


@pytest.fixture(scope="module")
def one_rank() -> Iterator[Layout]:
    with process_groups(Parallel(), seed=5) as layout:
        yield layout


def _losses(built: Any, sample: Packed, layout: Layout) -> torch.Tensor:
    """[tokens]: the loss of every target that counts, in order."""
    batch = micro_batch([sample], 1, layout)
    return NextToken().forward(built, batch)[batch.loss_mask.bool()]


def test_packed_losses_and_gradients_are_those_of_each_document_alone(one_rank: Layout) -> None:
    from athanor.models.language_model import build_language_model

    [built] = build_language_model(model(aux_loss_coefficient=0.0), Parallel())
    whole = PackedChains().sample(4)
    together = _losses(built, whole, one_rank)
    together.sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in built.named_parameters() if weight.grad is not None}
    built.zero_grad()
    apart, begin = [], 0
    for end in whole.ends[:-1]:
        size = int(end) - begin
        document = Packed(whole.tokens[begin:end], whole.counts[begin:end], np.array([size]))
        losses = _losses(built, document, one_rank)
        losses.sum().backward()
        apart.append(losses)
        begin = int(end)
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)
    for name, weight in built.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, gradients[name], atol=1e-5), name


def test_counted_targets_are_the_learnt_tokens_and_padding_is_none(one_rank: Layout) -> None:
    sample = PackedChains().sample(0)
    batch = micro_batch([sample], 1, one_rank)
    assert batch.labels[batch.loss_mask.bool()].tolist() == sample.tokens[sample.counts].tolist()
    assert batch.ends is not None and batch.ends.tolist() == [0, *sample.ends[:-1].tolist(), LENGTH]
    assert micro_batch([sample], 0, one_rank).loss_mask.sum() == 0, "what only fills up does not count"


def _recipe(ranks: int, parallel: dict[str, Any]) -> Recipe:
    return recipe(ranks, parallel={"micro_batch_size": 1, **parallel})


def _trained(folder: Path, start: Path, ranks: int = 1, **parallel: Any) -> Path:
    job = Job(folder, _recipe(ranks, parallel), start, STEPS * BATCH, packed=True)
    assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    return folder


def _curve(folder: Path, key: str) -> list[float]:
    return [json.loads(line)[key] for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Path:
    return _trained(tmp_path_factory.mktemp("packed") / "alone", fresh)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_train_the_same_on_packed_samples(layout: str, alone: Path, fresh: Path, tmp_path: Path) -> None:
    ranks, parallel = LAYOUTS[layout]
    run = _trained(tmp_path / "run", fresh, ranks, **parallel)
    for key, tolerance in (("loss", TOLERANCE), ("aux_loss", 1e-5)):
        assert _curve(run, key) == pytest.approx(_curve(alone, key), abs=tolerance, rel=0)
    for name in ("validation_start.json", "validation.json"):
        found, expected = (json.loads((folder / name).read_text()) for folder in (run, alone))
        for domain in expected:
            assert found[domain]["tokens"] == expected[domain]["tokens"] == {"even": 5, "odd": 6}[domain] * 14
            assert found[domain]["nats_per_token"] == pytest.approx(expected[domain]["nats_per_token"], abs=TOLERANCE)


def test_stage_begins_anew_with_anothers_weights(alone: Path, fresh: Path, tmp_path: Path) -> None:
    """From a checkpoint with an optimizer and a position, steps and tokens count from zero; the start is measured first."""
    again = _trained(tmp_path / "again", alone / "checkpoint")
    outcome = json.loads((again / "outcome.json").read_text())
    assert outcome["counters"] == {"step": STEPS, "tokens": STEPS * BATCH, "samples": STEPS * 8}
    assert json.loads((again / "validation_start.json").read_text()) == json.loads((alone / "validation.json").read_text())
    assert _curve(again, "tokens")[0] == BATCH
    assert _curve(again, "lr") == _curve(alone, "lr")


def test_killed_run_ends_in_the_same_bytes(alone: Path, fresh: Path, tmp_path: Path) -> None:
    """As if killed behind its first save: what it had written is there, the rest is made again."""
    half = Job(tmp_path / "run", _recipe(1, {}), fresh, 4 * BATCH, packed=True)
    assert processes.run(half) == [0], processes.log(half)
    (half.folder / "checkpoints").mkdir()
    shutil.move(half.folder / "checkpoint", half.folder / "checkpoints" / "step-000000004")
    _trained(half.folder, fresh)
    for name in ("curve.jsonl", "validation.json", "validation_start.json"):
        assert (half.folder / name).read_bytes() == (alone / name).read_bytes(), name
