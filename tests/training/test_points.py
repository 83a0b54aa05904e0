"""A training that goes on from an earlier point of its own ends as one that never stopped there, whatever it trains and when it
is killed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from athanor.recipe.schema.choices import PeftKind, Precision
from athanor.recipe.schema.training import Peft, Zero
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import BATCH, recipe
from tests.training.test_adapters import folder as folder

POINT, STEPS = 3, 6
CASES = {  # ranks, ZeRO stage, precision, what is trained
    "all weights": (2, 3, Precision.FP32, PeftKind.NONE),
    "adapters in bf16": (1, 2, Precision.BF16, PeftKind.LORA),
}


@pytest.mark.parametrize("case", CASES)
def test_point_in_between_changes_no_byte_of_the_end(case: str, folder: Path, tmp_path: Path) -> None:
    ranks, stage, precision, kind = CASES[case]
    settings = recipe(ranks, precision=precision, parallel={"micro_batch_size": 2})
    whole = ModuleJob(tmp_path / "whole", settings, folder, Zero(stage=stage), STEPS * BATCH, peft=Peft(kind=kind))
    point = replace(whole, folder=tmp_path / "point", end_tokens=POINT * BATCH)
    behind = replace(whole, folder=tmp_path / "behind", earlier=point.folder / "checkpoint", stop_after=8 * (STEPS - 2) + 1)
    assert program.run(whole, ranks) == [0] * ranks, program.log(whole)
    assert program.run(point, ranks) == [0] * ranks, program.log(point)
    assert program.run(behind, ranks) == [75] * ranks, program.log(behind)
    assert program.run(replace(behind, stop_after=0), ranks) == [0] * ranks, program.log(behind)
    lines = [(job.folder / "curve.jsonl").read_text().splitlines() for job in (point, behind)]
    assert [len(some) for some in lines] == [POINT, STEPS - POINT], "each step is on record once, where it was trained"
    assert [*lines[0], *lines[1]] == (whole.folder / "curve.jsonl").read_text().splitlines()
    for name in ("validation.json", "model/model.safetensors"):
        assert (behind.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    found, expected = (json.loads((job.folder / "checkpoint" / "state.json").read_text()) for job in (behind, whole))
    assert found == expected, "weights and moments are the same bytes"
    files = json.loads((behind.folder / "outcome.json").read_text())["files"]
    assert "validation_start.json" not in files and not (behind.folder / "validation_start.json").exists()


def test_point_of_another_layout_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    point = ModuleJob(tmp_path / "point", recipe(1), folder, Zero(stage=1), BATCH)
    assert program.run(point) == [0], program.log(point)
    save = point.folder / "checkpoint"
    going_on = replace(point, folder=tmp_path / "on", zero=Zero(stage=2), end_tokens=2 * BATCH, earlier=save)
    assert program.run(going_on) == [1]
    assert f"delete {point.folder} and train it anew" in program.log(going_on)
    damaged = next(save.glob("*model_states.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert program.run(replace(going_on, zero=point.zero)) == [1]
    assert f"delete {point.folder / 'manifest.json'} and make it again" in program.log(going_on)
