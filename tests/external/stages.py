"""Stage `online` with a trainer of its own, in a folder; also a program that runs it in a process of its own."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, StageRun
from athanor.recipe.schema.external import External
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.recipe import Recipe
from athanor.stages.online_external import learn_elsewhere
from athanor.tracking.spool import Spool

TRAINER = Path(__file__).with_name("trainer.py")
TOKENS, LENGTH = 2048, 64


def stage_in(folder: Path, settings: dict[str, Any], attempt: int = 1, rank: int = 0, **external: Any) -> StageRun:
    """The `attempt`-th start of an artifact in `folder`, where `start/model` is the model that training begins with."""
    command = f"python {TRAINER} {{handover}}"
    online = Online(
        mixture={"sums": 1.0},
        prompts=4,
        samples=4,
        sequence_length=LENGTH,
        token_budget=TOKENS,
        external=External(**{"command": command, "settings": settings, **external}),
    )
    made = folder / "online"
    made.mkdir(exist_ok=True)
    inputs = {name: _input(folder / name, name) for name in ("start", "pool")}
    stage = StageRun(Recipe(seed=7, online=online), "online", "model", "f" * 16, made, inputs, rank=rank, attempt=attempt)
    if rank == 0:
        stage.spool = Spool(made / "tracking" / f"{attempt:03d}.jsonl")
    return stage


def _input(folder: Path, name: str) -> Input:
    return Input(folder, Manifest(Result(name, "model", name[0] * 16, {}, (), {}), Provenance("", 1, 0.0, 0.0, "", "")))


def lay_out(folder: Path, model: Path) -> None:
    """What the stage is made from; nothing here reads the pool."""
    shutil.copytree(model, folder / "start" / "model")
    (folder / "pool").mkdir()


if __name__ == "__main__":
    stage = stage_in(Path(sys.argv[1]), json.loads(sys.argv[2]), rank=int(os.environ["RANK"]))
    stage.world_size = int(os.environ["WORLD_SIZE"])
    learn_elsewhere(stage)
