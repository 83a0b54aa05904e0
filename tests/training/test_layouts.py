"""Every parallel layout trains the same model from the same checkpoint, and takes over the checkpoint of another."""

import json
from pathlib import Path
from typing import Any

import pytest

from athanor.recipe.schema.recipe import Recipe
from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.layouts import LAYOUTS
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 6
TOLERANCE = 1e-6  # nats, in the first steps; rounding grows with them
# One rank's losses: other processors round otherwise, other versions may, and nothing else.
GOLDEN = [5.763919, 5.766383, 5.700779, 5.617217, 5.585854, 5.412474, 5.346051, 5.243396, 5.176408, 5.062443, 4.838666, 4.729703]
GOLDEN_TOLERANCE = 2e-5


def _recipe(ranks: int, parallel: dict[str, Any]) -> Recipe:
    return recipe(ranks, model={"num_layers": 4}, parallel={"micro_batch_size": 2, **parallel})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights of the four layers that interleaving needs."""
    job = Job(tmp_path_factory.mktemp("initialize") / "artifact", _recipe(1, {}))
    assert processes.run(job) == [0], processes.log(job)
    return job.folder / FINAL


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Path:
    """One rank trains STEPS steps, and twice as many in all from there."""
    folder = tmp_path_factory.mktemp("alone")
    for name, begin, steps in (("first", start, STEPS), ("second", folder / "first" / FINAL, 2 * STEPS)):
        job = Job(folder / name, _recipe(1, {}), begin, steps * BATCH)
        assert processes.run(job) == [0], processes.log(job)
    return folder


def _curve(folder: Path, key: str) -> list[float]:
    return [json.loads(line)[key] for line in (folder / "curve.jsonl").read_text().splitlines()]


def _validation(folder: Path) -> list[float]:
    domains = json.loads((folder / "validation.json").read_text())
    return [domains[name][key] for name in sorted(domains) for key in ("nats_per_token", "bits_per_byte")]


def _assert_same(folder: Path, expected: Path) -> None:
    assert _curve(folder, "loss") == pytest.approx(_curve(expected, "loss"), abs=TOLERANCE, rel=0)
    assert _curve(folder, "grad_norm") == pytest.approx(_curve(expected, "grad_norm"), rel=1e-4)
    assert _curve(folder, "aux_loss") == pytest.approx(_curve(expected, "aux_loss"), abs=1e-5)
    assert _validation(folder) == pytest.approx(_validation(expected), abs=TOLERANCE, rel=0)


def test_one_rank_trains_as_ever(alone: Path) -> None:
    losses = _curve(alone / "first", "loss") + _curve(alone / "second", "loss")
    assert losses == pytest.approx(GOLDEN, abs=GOLDEN_TOLERANCE, rel=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_takes_over_and_trains_as_one_rank_does(name: str, alone: Path, tmp_path: Path) -> None:
    sizes = LAYOUTS[name]
    job = Job(tmp_path / "spread", _recipe(sizes.ranks, sizes.parallel), alone / "first" / FINAL, 2 * STEPS * BATCH)
    assert processes.run(job, sizes.ranks) == [0] * sizes.ranks, processes.log(job)
    _assert_same(job.folder, alone / "second")


@pytest.mark.parametrize("name", ["expert 2", "pipeline 2, interleaved", "tensor 2, expert 2"])
def test_one_rank_continues_what_a_layout_began(name: str, start: Path, alone: Path, tmp_path: Path) -> None:
    sizes = LAYOUTS[name]
    spread = Job(tmp_path / "spread", _recipe(sizes.ranks, sizes.parallel), start, STEPS * BATCH)
    assert processes.run(spread, sizes.ranks) == [0] * sizes.ranks, processes.log(spread)
    _assert_same(spread.folder, alone / "first")
    job = Job(tmp_path / "one", _recipe(1, {}), spread.folder / FINAL, 2 * STEPS * BATCH)
    assert processes.run(job) == [0], processes.log(job)
    _assert_same(job.folder, alone / "second")


@pytest.mark.parametrize(
    ("ranks", "parallel", "error"),
    [
        (2, {"tensor": 2, "expert_tensor": 1}, ""),  # the recipe's check refuses this one: test_written_problems.py
        (2, {"context": 2}, "router losses"),
        (2, {"pipeline": 2, "virtual_pipeline": 2}, "messages between two stages"),
    ],
)
def test_without_its_cure_a_silent_error_shows(
    ranks: int, parallel: dict[str, Any], error: str, start: Path, alone: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path / "run", _recipe(ranks, parallel), start, STEPS * BATCH, uncured=error)
    assert processes.run(job, ranks) == [0] * ranks, "no error is raised"
    differences = [abs(a - b) for a, b in zip(_curve(job.folder, "loss"), _curve(alone / "first", "loss"), strict=True)]
    assert max(differences) > 30 * TOLERANCE


def test_a_layout_repeats_itself_to_the_last_bit(alone: Path, tmp_path: Path) -> None:
    curves = []
    for name in ("once", "again"):
        job = Job(
            tmp_path / name, _recipe(4, LAYOUTS["expert 2, pipeline 2"].parallel), alone / "first" / FINAL, 2 * STEPS * BATCH
        )
        assert processes.run(job, 4) == [0] * 4, processes.log(job)
        curves.append((job.folder / "curve.jsonl").read_bytes())
    assert curves[0] == curves[1]


def test_micro_batch_size_changes_rounding_only(start: Path, alone: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "one", _recipe(1, {"micro_batch_size": 8}), start, STEPS * BATCH)
    assert processes.run(job) == [0], processes.log(job)
    _assert_same(job.folder, alone / "first")
