"""Every parallel layout trains the same model from the same checkpoint, and takes over the checkpoint of another."""

import json
from pathlib import Path
from typing import Any

import pytest

from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 6
TOLERANCE = 1e-5  # nats, in the first steps; rounding grows with them
SMALL_LAYOUTS = {"data": {}, "expert": {"expert": 2}}
LAYOUTS = {
    "pipeline": {"pipeline": 2},
    "context": {"context": 2},
    "context and expert": {"context": 2, "expert": 2},
    # With expert = 1 the experts must be cut like the rest, else their gradients are silently wrong.
    "tensor": {"tensor": 2},
    "tensor and expert": {"tensor": 2, "expert": 2},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Path:
    """One rank trains STEPS steps, and twice as many in all from there."""
    folder = tmp_path_factory.mktemp("alone")
    for name, start, steps in (("first", fresh, STEPS), ("second", folder / "first" / FINAL, 2 * STEPS)):
        job = Job(folder / name, recipe(1), start, steps * BATCH)
        assert processes.run(job) == [0], processes.log(job)
    return folder


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def _aux_losses(folder: Path) -> list[float]:
    return [json.loads(line)["aux_loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def _validation(folder: Path) -> list[float]:
    domains = json.loads((folder / "validation.json").read_text())
    return [domains[name][key] for name in sorted(domains) for key in ("nats_per_token", "bits_per_byte")]


def _check(layout: dict[str, int], alone: Path, fresh: Path, folder: Path) -> None:
    """Weights alone from a fresh start, then weights and optimizer from the one-rank run's checkpoint."""
    for name, start, steps in (("first", fresh, STEPS), ("second", alone / "first" / FINAL, 2 * STEPS)):
        parallel: dict[str, Any] = {k: v for k, v in layout.items() if k != "expert"}
        job = Job(folder / name, recipe(2, expert=layout.get("expert", 1), parallel=parallel), start, steps * BATCH)
        assert processes.run(job, 2) == [0, 0], processes.log(job)
        assert _losses(job.folder) == pytest.approx(_losses(alone / name), abs=TOLERANCE, rel=0)
        assert _aux_losses(job.folder) == pytest.approx(_aux_losses(alone / name), abs=1e-4)
        assert _validation(job.folder) == pytest.approx(_validation(alone / name), abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("name", SMALL_LAYOUTS)
def test_two_ranks_train_as_one_does(name: str, alone: Path, fresh: Path, tmp_path: Path) -> None:
    _check(SMALL_LAYOUTS[name], alone, fresh, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_as_one_rank_does(name: str, alone: Path, fresh: Path, tmp_path: Path) -> None:
    _check(LAYOUTS[name], alone, fresh, tmp_path)


def test_expert_checkpoint_continues_on_one_rank(alone: Path, fresh: Path, tmp_path: Path) -> None:
    spread = Job(tmp_path / "spread", recipe(2, expert=2), fresh, STEPS * BATCH)
    assert processes.run(spread, 2) == [0, 0], processes.log(spread)
    job = Job(tmp_path / "one", recipe(1), spread.folder / FINAL, 2 * STEPS * BATCH)
    assert processes.run(job) == [0], processes.log(job)
    assert _losses(job.folder) == pytest.approx(_losses(alone / "second"), abs=TOLERANCE, rel=0)


def test_micro_batch_size_changes_rounding_only(alone: Path, fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "one", recipe(1, parallel={"micro_batch_size": 2}), fresh, STEPS * BATCH)
    assert processes.run(job) == [0], processes.log(job)
    assert _losses(job.folder) == pytest.approx(_losses(alone / "first"), abs=TOLERANCE, rel=0)
