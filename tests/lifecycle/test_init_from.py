"""A second campaign that starts from the folder that a first one has exported."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle.project import Project, recipe

pytestmark = pytest.mark.slow

VOCABULARY = 320
AS_TRAINED_NATS = 0.1  # between the loss where the first campaign ended and where the second begins: other samples


def continued(folder: str) -> dict[str, Any]:
    """Recipe tiny for a short second training that starts from `folder`, on samples of another order."""
    data: dict[str, Any] = recipe()
    data["seed"] = 2
    data["tokenizer"]["vocab_size"] = VOCABULARY - 20  # what would be trained without the folder is another one
    data["pretrain"] |= {"init_from": folder, "milestone_tokens": [], "token_budget": 4096, "decay_tokens": 2048}
    return data


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_campaign_goes_on_from_what_another_has_exported(copied: Project) -> None:
    exported, ended = copied.folder_of("export/16384") / "model", copied.folder_of("pretrain/16384")
    shutil.copytree(exported, copied.folder / "models" / "first")
    copied.write_recipe("second", continued("models/first"))
    locked = copied.athanor("recipe", "lock", "second")
    assert locked.returncode == 0, locked.stderr
    done = copied.snakemake("--config", "recipe=second")
    assert done.returncode == 0, done.stdout + done.stderr

    second = {name: copied.folder_of(name, "second") for name in ("tokenizer/bpe", "pretrain/4096", "report/campaign")}
    before = read(ended / "validation.json")["prose"]["nats_per_token"]
    first_step = json.loads((second["pretrain/4096"] / "curve.jsonl").read_text().splitlines()[0])
    assert first_step["step"] == 1
    assert first_step["loss"] == pytest.approx(before, abs=AS_TRAINED_NATS)
    assert before < math.log(VOCABULARY) - 1, "far from what a model knows that was never trained"
    untrained = [row["untrained"] for row in read(second["report/campaign"] / "results.json")["scores"]]
    trained = [row["value"] for row in read(copied.folder_of("report/campaign") / "results.json")["scores"]]
    assert untrained == pytest.approx(trained, abs=1e-5), "the second campaign's start is the first one's model"

    assert (second["tokenizer/bpe"] / "tokenizer.json").read_bytes() == (exported / "tokenizer.json").read_bytes()
    assert copied.manifest("tokenizer/bpe", "second")["result"]["counters"] == {"vocabulary": VOCABULARY}
    assert copied.athanor("report", "--recipe", "second").returncode == 0
    assert copied.to_run("recipe=tiny") == [], "the first campaign is as it was"
