"""The loop learns, in every precision this machine has, and fails loudly where it cannot."""

import json
from pathlib import Path

import pytest

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import BatchSwitch
from athanor.training.checkpoints import FINAL
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe


def _curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP8_EMULATED])
def test_training_learns_the_chains(precision: Precision, fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(1, precision=precision, every_steps=1000), fresh, 60 * BATCH)
    assert processes.run(job) == [0], processes.log(job)
    losses = [point["loss"] for point in _curve(job.folder)]
    assert losses[0] == pytest.approx(5.77, abs=0.1), "ln 320: nothing is known yet"
    assert losses[-1] < 3.0
    held_out = json.loads((job.folder / "validation.json").read_text())
    assert {name: domain["tokens"] for name, domain in held_out.items()} == {"even": 13 * 32, "odd": 14 * 32}
    assert all(abs(domain["nats_per_token"] - losses[-1]) < 0.5 for domain in held_out.values())


def test_batch_switch_and_milestone_end_on_whole_steps(fresh: Path, tmp_path: Path) -> None:
    switch = BatchSwitch(at_tokens=2 * BATCH + 1, batch_tokens=2 * BATCH)
    job = Job(tmp_path / "run", recipe(1, batch_switches=[switch]), fresh, 6 * BATCH)
    assert processes.run(job) == [0], processes.log(job)
    assert [point["tokens"] // BATCH for point in _curve(job.folder)] == [1, 2, 3, 5, 7]
    counters = json.loads((job.folder / "outcome.json").read_text())["counters"]
    assert counters == {"step": 5, "tokens": 7 * BATCH, "samples": 7 * 8}


def test_other_number_of_ranks_than_the_recipe_is_refused(fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(2), fresh, BATCH)
    assert processes.run(job) == [1]
    assert "the job has 1 ranks, the recipe 2 in `parallel.ranks`" in processes.log(job)


def test_fp8_without_transformer_engine_is_refused(fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(1, precision=Precision.FP8_BLOCKWISE), fresh, BATCH)
    assert processes.run(job) == [1]
    assert "error: pretrain.precision=fp8_blockwise needs Transformer Engine on a GPU" in processes.log(job)


def test_damaged_start_is_refused(fresh: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for path in fresh.iterdir():
        (start / path.name).write_bytes(path.read_bytes())
    (start / "common.pt").write_bytes(b"not it")
    job = Job(tmp_path / "run", recipe(1), start, BATCH)
    assert processes.run(job) == [1]
    assert "is damaged (common.pt has sha256" in processes.log(job)


def test_initialize_twice_gives_the_same_bytes(fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(2, expert=2))
    assert processes.run(job) == [0], processes.log(job)
    again = job.folder / FINAL
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in fresh.iterdir()}
