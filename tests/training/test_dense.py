"""A model without experts trains in the same loop: every layout as one rank does, and nothing of routers is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from athanor.models.torch_dist import ShardedCheckpoint
from athanor.recipe.schema.recipe import Recipe
from athanor.training.checkpoints import FINAL
from athanor.training.routing import EXPERT_LOAD
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 6
TOLERANCE = 1e-6  # nats
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "data 2": (2, {}),
    "tensor 2": (2, {"tensor": 2}),
    "pipeline 2, interleaved": (2, {"pipeline": 2, "virtual_pipeline": 2}),
    "context 2": (2, {"context": 2}),
}


def _recipe(ranks: int = 1, **parallel: Any) -> Recipe:
    shape = {"num_layers": 4, "num_experts": 0}
    return recipe(ranks, model=shape, parallel={"micro_batch_size": 2, **parallel})


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights, and one rank's first steps from them in `alone`."""
    folder = tmp_path_factory.mktemp("dense")
    fresh = Job(folder / "fresh", _recipe())
    assert processes.run(fresh) == [0], processes.log(fresh)
    alone = Job(folder / "alone", _recipe(), folder / "fresh" / FINAL, STEPS * BATCH)
    assert processes.run(alone) == [0], processes.log(alone)
    return folder


def test_dense_model_learns_and_tells_nothing_of_routers(dense: Path) -> None:
    losses = _losses(dense / "alone")
    assert losses[-1] < losses[0]
    [spool] = (dense / "alone" / "tracking").iterdir()
    assert "loss" in spool.read_text()
    assert "expert" not in spool.read_text()
    assert not (dense / "alone" / FINAL / EXPERT_LOAD).exists()


def test_dense_checkpoint_has_the_names_of_transformer_engine(dense: Path) -> None:
    names = {name for name in ShardedCheckpoint(dense / "fresh" / FINAL).weights() if ".mlp" in name or "mlp_" in name}
    assert names == {f"decoder.layers.mlp.linear_fc{w}" for w in ("1.weight", "1.layer_norm_weight", "2.weight")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dense_model_trains_in_every_layout_as_on_one_rank(layout: str, dense: Path, tmp_path: Path) -> None:
    ranks, parallel = LAYOUTS[layout]
    job = Job(tmp_path / "spread", _recipe(ranks, **parallel), dense / "fresh" / FINAL, STEPS * BATCH)
    assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    assert _losses(job.folder) == pytest.approx(_losses(dense / "alone"), abs=TOLERANCE, rel=0)
