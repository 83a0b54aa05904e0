"""Frozen weights stay to the last bit, the others learn; in every layout, and across a kill."""

import json
from pathlib import Path

import pytest
import torch

from athanor.models.freezing import matches
from athanor.models.torch_dist import ShardedCheckpoint
from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 5


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("mlp.router", True),
        ("router", True),
        ("decoder", True),
        ("*.weight", True),
        ("decoder.*.r?uter", True),
        ("mlp", True),
        ("ml", False),
        ("outer", False),
        ("layers.router", False),
    ],
)
def test_patterns_match_whole_parts_of_a_name(pattern: str, expected: bool) -> None:
    assert matches("decoder.layers.mlp.router.weight", pattern) == expected


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = ShardedCheckpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.weights()}


@pytest.mark.parametrize(("ranks", "parallel"), [(1, {}), (2, {"expert": 2}), (2, {"pipeline": 2}), (2, {"tensor": 2})], ids=str)
def test_frozen_weights_stay_and_the_others_learn(ranks: int, parallel: dict[str, int], fresh: Path, tmp_path: Path) -> None:
    made = recipe(ranks, parallel=parallel, freeze=["mlp.router", "embedding", "experts.*.linear_fc1"])
    first = Job(tmp_path / "first", made, fresh, STEPS * BATCH)
    second = Job(tmp_path / "second", made, first.folder / FINAL, 2 * STEPS * BATCH)  # goes on, with its optimizer
    for job in (first, second):
        assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    before, after = _weights(fresh), _weights(second.folder / FINAL)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        frozen = any(part in name for part in ("router", "embedding", "experts.linear_fc1"))
        assert torch.equal(weight, after[name]) == frozen, name


def test_frozen_layout_trains_as_one_rank_does(fresh: Path, tmp_path: Path) -> None:
    losses = []
    for ranks, parallel in ((1, {}), (2, {"expert": 2})):
        job = Job(tmp_path / str(ranks), recipe(ranks, parallel=parallel, freeze=["router"]), fresh, STEPS * BATCH)
        assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
        losses.append([json.loads(line)["loss"] for line in (job.folder / "curve.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_name_that_no_weight_has_is_refused_with_some_that_there_are(fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(2, parallel={"pipeline": 2}, freeze=["output_layer", "mlp.rooter"]), fresh, BATCH)
    assert processes.run(job, 2) == [1, 1]
    for rank in (0, 1):
        assert "pretrain.freeze: no weight is called mlp.rooter; there are " in processes.log(job, rank)
    assert "decoder.layers.mlp.router.weight, " in processes.log(job)


def test_freezing_everything_is_refused(fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(1, freeze=["*"]), fresh, BATCH)
    assert processes.run(job) == [1]
    assert "pretrain.freeze: nothing is left to train" in processes.log(job)
