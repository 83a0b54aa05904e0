"""A milestone that another trainer reaches: what it is told, and what a kill between its end and ours leaves to do."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, Outcome, StageError, StageRun, Stopped
from athanor.data.token_store import TokenWriter, write_token_bytes
from athanor.external.contract import Corpus, Handover
from athanor.models.huggingface_folder import open_folder
from athanor.recipe.schema.choices import DocumentFormat, SourceKind
from athanor.recipe.schema.external import External
from athanor.recipe.schema.recipe import Data, Recipe, Source
from athanor.recipe.schema.training import Pretrain
from athanor.stages import pretrain, pretrain_external
from athanor.stages.external import TrainerError
from athanor.training.checkpoints import FINAL, read_state
from tests.external.stages import TRAINER
from tests.models.folders import MOE, write_folder

LENGTH, TOKENS = 16, 2048
BEFORE = {"step": 3, "tokens": 96}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A start in both forms, of which the checkpoint is not read, and tokens to learn and to be measured by."""
    write_folder(tmp_path / "given" / "model", MOE)
    size = open_folder(tmp_path / "given" / "model").described.model.vocab_size
    for number, name in enumerate(("prose-0", "prose-1", "prose-held_out")):
        (folder := tmp_path / name).mkdir()
        with TokenWriter(folder, size) as writer:
            writer.write([np.random.default_rng(number).integers(size, size=50).tolist() for _ in range(4)])
        write_token_bytes(folder, [2] * size)
    return tmp_path


def stage_in(place: Path, does: str = "", attempt: int = 1, **keys: Any) -> StageRun:
    external = External(command=f"python {TRAINER} {{handover}}", settings={"does": does} if does else {})
    settings = Pretrain(
        **{"mixture": {"prose": 1.0}, "sequence_length": LENGTH, "token_budget": TOKENS, "external": external, **keys}
    )
    prose = Source(SourceKind.LOCAL, licence="CC0-1.0", domain="words", format=DocumentFormat.TEXT)
    model = open_folder(place / "given" / "model").described.model
    recipe = Recipe(name="elsewhere", seed=7, model=model, pretrain=settings, data=Data(sources={"prose": prose}))
    names = ("start", "given", "prose-0", "prose-1", "prose-held_out")
    made = Provenance("", 1, 0.0, 0.0, "", "")
    inputs = {
        name: Input(
            place / name, Manifest(Result(name, "model", name[0] * 16, {}, (), dict(BEFORE) if name == "start" else {}), made)
        )
        for name in names
    }
    (folder := place / "pretrain").mkdir(exist_ok=True)
    return StageRun(recipe, "pretrain", str(TOKENS), "f" * 16, folder, inputs, attempt=attempt)


def test_trainer_is_told_where_tokens_are_and_its_folder_becomes_a_checkpoint(place: Path) -> None:
    outcome = pretrain.run(stage := stage_in(place))
    told = Handover.read(stage.folder / "external" / "001" / "handover.json")
    assert (told.stage, told.budget.tokens, told.asked) == (f"pretrain/{TOKENS}", TOKENS, None)
    assert told.inputs["start"].path == str(place / "given" / "model") and told.inputs["start"].fingerprint == "g" * 16
    shards = [str(place / "prose-0"), str(place / "prose-1")]
    held_out = {"prose": str(place / "prose-held_out")}
    assert told.corpus == Corpus({"prose": 1.0}, LENGTH, {"prose": shards}, held_out, **BEFORE)
    assert outcome.files == (FINAL, "curve.jsonl", "validation.json", "metrics.jsonl")
    assert outcome.counters == {"step": 11, "tokens": TOKENS, "samples": TOKENS // LENGTH}
    assert outcome.trainer["command"].startswith("python ") and outcome.metrics["reward"] == 1.0
    position = read_state(stage.folder / FINAL).position
    assert (position.step, position.tokens, position.samples) == (11, TOKENS, TOKENS // LENGTH)
    assert not (stage.folder / "model").exists() and not (stage.folder / "external" / "checkpoints").exists()
    assert (stage.folder / "curve.jsonl").read_text() == "", "it told of no loss"


def test_losses_of_held_out_text_are_those_of_the_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the start as it is, in both forms."""
    from transformers import AutoModelForCausalLM

    from athanor.data.windows import held_out_sequences

    def copy(stage: StageRun, deal: object) -> None:
        shutil.copytree(place / "given" / "model", stage.folder / "model")
        (stage.folder / "external" / "001").mkdir(parents=True)
        (stage.folder / "external" / "001" / "version.txt").write_text("")
        (stage.folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "tokens": TOKENS, "loss": 2.5}) + "\n")

    monkeypatch.setattr(pretrain_external, "hand_over", copy)
    outcome = pretrain.run(stage := stage_in(place))
    rows = torch.from_numpy(
        held_out_sequences(place / "prose-held_out", LENGTH, stage.recipe.pretrain.validation_tokens).sequences
    )
    model = AutoModelForCausalLM.from_pretrained(place / "given" / "model", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(input_ids=rows[:, :-1]).logits
    known = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    assert outcome.metrics["words/nats_per_token"] == pytest.approx(known, abs=1e-4)
    assert outcome.metrics["words/bits_per_byte"] == pytest.approx(known / math.log(2) / 2, abs=1e-4)
    [point] = [json.loads(line) for line in (stage.folder / "curve.jsonl").read_text().splitlines()]
    assert (point["step"], point["loss"], point["lr"]) == (4, 2.5, None)


@pytest.mark.parametrize("at", ["write_weights", "measure"])
def test_kill_behind_the_trainers_end_does_not_train_again(place: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pretrain_external, at, dies)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(stage_in(place))
    outcome: Outcome = pretrain.run(stage := stage_in(place, "fail", attempt=2))
    assert outcome.counters["step"] == 11 and outcome.trainer["version"] == "" and (stage.folder / FINAL).is_dir()
    assert [path.name for path in sorted((stage.folder / "external").glob("0*"))] == ["001"]


def test_stop_behind_the_trainers_end_is_heeded_and_the_next_start_goes_on(place: Path) -> None:
    stage = stage_in(place)
    stage._stop.set()
    shutil.copytree(place / "given" / "model", stage.folder / "model")
    (stage.folder / "external" / "001").mkdir(parents=True)
    (stage.folder / "external" / "001" / "version.txt").write_text("")
    (stage.folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "tokens": TOKENS}) + "\n")
    with pytest.raises(Stopped, match=r"the import after .* GB written"):
        pretrain.run(stage)
    assert pretrain.run(stage_in(place, attempt=2)).counters["step"] == 4


def test_checkpoint_that_is_not_what_was_written_is_not_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pretrain_external, "measure", dies)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(stage := stage_in(place))
    [largest] = sorted((stage.folder / FINAL).glob("*.distcp"), key=lambda path: path.stat().st_size)[-1:]
    largest.write_bytes(largest.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(StageError, match=r"is damaged .*; delete it, and it is made again"):
        pretrain.run(stage_in(place, attempt=2))
    shutil.rmtree(stage.folder / FINAL)
    assert pretrain.run(stage_in(place, "fail", attempt=3)).counters["step"] == 11


def test_disk_must_have_room_for_the_checkpoint_beside_the_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    with pytest.raises(StageError, match="No space left on device"):
        pretrain.run(stage_in(place))


def test_start_that_is_beyond_the_milestone_is_refused(place: Path) -> None:
    (beyond := stage_in(place)).inputs["start"].manifest.result.counters["tokens"] = TOKENS  # type: ignore[index]
    with pytest.raises(StageError, match=f"has {TOKENS} tokens already, and this milestone ends at {TOKENS}"):
        pretrain.run(beyond)


def test_trainer_that_fails_or_leaves_another_model_leaves_no_checkpoint(place: Path) -> None:
    with pytest.raises(TrainerError, match="CUDA out of memory"):
        pretrain.run(stage_in(place, "fail"))
    with pytest.raises(StageError, match="is not what was to be left there"):
        pretrain.run(stage := stage_in(place, "reshape", attempt=2))
    assert not (stage.folder / FINAL).exists()
