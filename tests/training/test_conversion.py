"""`athanor convert` as a person uses it, and training that starts from a Hugging Face folder."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from athanor.artifacts.run import StageError, StageRun
from athanor.cli import main
from athanor.models.folder_files import digest
from athanor.models.huggingface_folder import open_folder
from athanor.models.import_huggingface import plan_import
from athanor.recipe.loading import resolved_text
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Model
from athanor.stages import initialize
from athanor.training.checkpoints import FINAL
from athanor.training.importing import write_import
from tests import ranks as warm
from tests.models.folders import DENSE, INTERN_S1, MOE, contents, edit_config, write_folder
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe
from tests.training.synthetic import LENGTH, AffineChains


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def test_convert_there_and_back_gives_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", INTERN_S1)
    assert convert(source, tmp_path / "imported") == 0
    assert convert(tmp_path / "imported", tmp_path / "back") == 0
    assert contents(tmp_path / "back") == contents(source)
    assert "in the files and types it came in" in capsys.readouterr().out


def test_convert_makes_a_larger_model(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", DENSE)
    assert convert(source, tmp_path / "up", "--experts", 4, "--vocab-size", 400, "--dtype", "bf16") == 0
    assert convert(tmp_path / "up", tmp_path / "back", "--to", "huggingface", "--dtype", "bf16") == 0
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "back").config
    found = (config.architectures, config.num_experts, config.num_experts_per_tok, config.vocab_size, config.dtype)
    assert found == (["Qwen3MoeForCausalLM"], 4, 2, 400, torch.bfloat16)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--vocab-size", 10, "--experts-per-token", 3], ["give --experts, too", "vocab_size=10: the weights have 320 rows"]),
        (["--experts", 2, "--experts-per-token", 3], ["--experts 2 --experts-per-token 3: from 2 to 2"]),
        (["--like", "x"], ["--like says where a checkpoint came from"]),
    ],
)
def test_convert_tells_all_problems_and_writes_nothing(
    words: list[object], says: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_folder(tmp_path / "source", DENSE)
    (tmp_path / "out" / FINAL).mkdir(parents=True)
    assert convert(source, tmp_path / "out", *words) == 1
    report = capsys.readouterr().err
    assert all(text in report for text in [*says, "exists already"]), report
    assert not any((tmp_path / "out" / FINAL).iterdir())


def test_convert_tells_of_a_disk_without_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "source", DENSE)
    usage = os.statvfs(tmp_path)
    full = type("Usage", (), {"total": usage.f_blocks, "used": usage.f_blocks, "free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    assert convert(source, tmp_path / "out") == 1
    assert "GB are free; make room" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_convert_of_neither_form_says_what_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path, tmp_path / "out", "--experts", 4) == 1
    report = capsys.readouterr().err
    assert "neither a checkpoint's folder nor a Hugging Face one" in report
    assert "--experts is for conversion to megatron" in report


def test_convert_like_a_folder_of_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(write_folder(tmp_path / "source", MOE), tmp_path / "imported") == 0
    other = write_folder(tmp_path / "other", DENSE)
    edit_config(write_folder(tmp_path / "source-2", MOE), rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert convert(tmp_path / "imported", tmp_path / "back", "--like", other) == 1
    assert "expert_ffn_size is 56; the weights have 40; use 40" in capsys.readouterr().err
    assert convert(tmp_path / "imported", tmp_path / "back", "--like", tmp_path / "source-2") == 1
    assert "rope_base is 5000.0; the weights have 1000000.0" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def _die_half_way(source: Path, into: Path) -> None:
    folder = open_folder(source)

    def progress(done: int, total: int) -> None:
        if done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    write_import(plan_import(folder, folder.described.model, 0), into, progress)


def test_killed_import_leaves_nothing_that_looks_whole_and_converts_when_asked_again(tmp_path: Path) -> None:
    source, out = write_folder(tmp_path / "source", MOE), tmp_path / "out"
    assert warm.wait(warm.start(_die_half_way, source, out, logs=[tmp_path / "log"])) == [-signal.SIGKILL]
    assert (out / f".{FINAL}.writing").is_dir()
    assert not (out / FINAL).exists()
    assert convert(out, tmp_path / "back") == 1, "there is no checkpoint to convert"
    assert convert(source, out) == 0
    assert convert(out, tmp_path / "back") == 0
    assert contents(tmp_path / "back") == contents(source)


def start_recipe(source: Path, precision: Precision = Precision.FP32, **grown: int) -> Recipe:
    """Trains the chains from the folder `source`, in a layout of two ranks."""
    made = recipe(2, every_steps=1000, precision=precision, parallel={"micro_batch_size": 2}, lr=1e-3)
    model: Model = replace(open_folder(source).described.model, max_sequence_length=LENGTH, **grown)
    locked = {"init_from": str(source), "init_from_sha256": digest(source, lambda done, total: None)}
    return replace(made, model=model, pretrain=replace(made.pretrain, **locked))


def initialized(made: Recipe, folder: Path) -> Path:
    folder.mkdir()
    outcome = initialize.run(StageRun(made, "initialize", "model", "0" * 16, folder, {}))
    assert outcome.files == (FINAL, "huggingface")
    assert outcome.counters["tokens"] == 0
    return folder / FINAL


@pytest.mark.parametrize(
    ("family", "precision", "grown"),
    [
        (MOE, Precision.FP32, {}),
        (DENSE, Precision.FP32, {}),
        (DENSE, Precision.FP32, {"num_experts": 4, "vocab_size": 330}),
        (INTERN_S1, Precision.BF16, {}),
    ],
)
def test_training_starts_from_a_folder(family: str, precision: Precision, grown: dict[str, int], tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", family, dtype=torch.bfloat16)
    made = start_recipe(source, precision, **grown)
    job = Job(tmp_path / "run", made, initialized(made, tmp_path / "start"), 6 * BATCH)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    losses = [json.loads(line)["loss"] for line in (job.folder / "curve.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    if family != INTERN_S1 and not grown:
        assert losses[0] == pytest.approx(_loss_by_transformers(source), abs=2e-5)


def _loss_by_transformers(folder: Path) -> float:
    """Of the first batch that training sees, with the folder's weights."""
    rows = torch.stack([torch.from_numpy(AffineChains().sample(i)) for i in range(BATCH // LENGTH)])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))


def test_start_from_a_folder_that_changed_since_it_was_locked_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", MOE)
    made = start_recipe(source)
    edit_config(source, use_cache=False)
    with pytest.raises(StageError, match=r"the folder changed; bring back the old files, or run `athanor recipe lock`"):
        initialized(made, tmp_path / "start")
    assert not (tmp_path / "start" / FINAL).exists()


def test_trained_milestone_becomes_a_folder_like_the_one_it_came_from(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", INTERN_S1)
    made = start_recipe(source)
    job = Job(tmp_path / "run", made, initialized(made, tmp_path / "start"), 2 * BATCH)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    (job.folder / "plan.yaml").write_text(resolved_text(made))  # as the driver leaves it in every artifact
    assert convert(job.folder, tmp_path / "back", "--like", tmp_path / "start" / "huggingface") == 0
    before, after = open_folder(source), open_folder(tmp_path / "back")
    assert after.file_of == before.file_of
    assert all(torch.equal(after.read(name), before.read(name)) for name in before.carried if "ids" not in name)
    trained = [name for name in before.file_of if name not in before.carried]
    assert not any(torch.equal(after.read(name), before.read(name)) for name in trained if "embed" not in name)
