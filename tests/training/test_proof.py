"""A checkpoint that is not what was trained is found before an update is made, set aside with the evidence, and the one
before it used."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.training.checkpoints import FINAL, SAVES, STATE
from athanor.training.proof import Proof, contradiction, from_record, to_record
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS, EVERY, KILLED_AT = 14, 4, 11  # so the newest checkpoints are those of steps 8 and 4
PROOF = Proof(0, 8, 3.0, (1.0, 2.0), 4, "cpu ranks=2", "fp32")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"loss": 3.0 + 1e-9}, "the loss of samples 0 to 7 is 3.000000001, 3.000000000 when it was saved"),
        ({"loss": float("nan")}, "the loss of samples 0 to 7 is nan"),
        ({"moments": (1.0, 2.5)}, "the norm of its exp_avg_sq is 2.5, 2 when it was saved"),
        ({"updates": 3}, "its optimizer has made 3 updates, 4 when it was saved"),
        ({"rounding": "cpu ranks=1", "loss": 3.0 + 1e-6}, ""),
        ({"rounding": "cpu ranks=1", "loss": 3.01}, "the loss"),
        ({"rounding": "cuda ranks=2", "moments": (1.0 + 1e-6, 2.0)}, ""),
        ({"precision": "fp8_emulated", "loss": 3.01}, ""),
        ({"precision": "fp8_emulated", "loss": 3.06}, "the loss"),
        ({"precision": "fp8_emulated", "moments": (1.0, 2.1)}, "the norm of its exp_avg_sq"),
    ],
)
def test_what_contradicts_a_proof(change: dict[str, object], words: str) -> None:
    found = contradiction(PROOF, dataclasses.replace(PROOF, **change))  # type: ignore[arg-type]
    assert words in found if words else not found


def test_loss_that_is_no_number_proves_itself_by_being_none_again() -> None:
    without = dataclasses.replace(PROOF, loss=float("nan"))
    read = from_record(json.loads(json.dumps(to_record(without), allow_nan=False)))
    assert not contradiction(read, without)
    assert "the loss of samples 0 to 7 is 3.0" in contradiction(read, PROOF)
    assert "the norm of its exp_avg" in contradiction(read, dataclasses.replace(without, moments=(1.5, 2.0)))


def test_checkpoint_that_names_no_precision_is_measured_as_exactly() -> None:
    older = dataclasses.replace(PROOF, precision="")
    assert not contradiction(older, PROOF)
    assert "the loss" in contradiction(older, dataclasses.replace(PROOF, loss=3.0 + 1e-9))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Path:
    job = Job(tmp_path_factory.mktemp("undisturbed") / "run", recipe(2, expert=2), fresh, STEPS * BATCH)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    return job.folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Job:
    job = Job(tmp_path_factory.mktemp("killed") / "run", recipe(2, expert=2), fresh, STEPS * BATCH, pause_at_step=KILLED_AT)
    ranks = processes.start(job, 2)
    processes.wait_for([job.folder / "paused-0", job.folder / "paused-1"], ranks)
    processes.kill(ranks)
    return job


def _copy(killed: Job, folder: Path) -> Job:
    shutil.copytree(killed.folder, folder)
    return dataclasses.replace(killed, folder=folder, pause_at_step=0)


def _save(job: Job, step: int) -> Path:
    return job.folder / SAVES / f"step-{step:09d}"


def _with_hashes_of(folder: Path, change: Callable[[dict[str, object]], None] = lambda state: None) -> None:
    """Make the hashes agree again: the damage is one that hashing cannot see."""
    from athanor.artifacts.files import sha256_of

    state = json.loads((folder / STATE).read_text())
    state["files"] = {name: sha256_of(folder / name) for name in state["files"]}
    change(state)
    (folder / STATE).write_text(json.dumps(state))


def _other_steps_tensors(job: Job) -> None:
    """Weights and optimizer of step 4 under the name of step 8, hashed: a save that wrote what it had in hand before."""
    for path in _save(job, 4).iterdir():
        if path.name != STATE:
            shutil.copy(path, _save(job, 8) / path.name)
    _with_hashes_of(_save(job, 8))


def _other_data(job: Job) -> None:
    """As if the corpus had been made anew: the samples of the proof are others."""

    def shift(state: dict[str, object]) -> None:
        proof = state["proof"]
        assert isinstance(proof, dict)
        proof["first_sample"] += 8
        proof["end_sample"] += 8

    _with_hashes_of(_save(job, 8), shift)


def _other_moments(job: Job) -> None:
    def halve(state: dict[str, object]) -> None:
        proof = state["proof"]
        assert isinstance(proof, dict)
        proof["moments"][1] *= 2

    _with_hashes_of(_save(job, 8), halve)


def _flipped_byte(job: Job) -> None:
    shard = _save(job, 8) / "__0_0.distcp"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)


def _truncated(job: Job) -> None:
    shard = _save(job, 8) / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-100])


DAMAGE: dict[str, tuple[Callable[[Job], None], str]] = {
    "flipped byte": (_flipped_byte, "is damaged (__0_0.distcp has sha256"),
    "truncated shard": (_truncated, "is damaged (__1_0.distcp has sha256"),
    "missing shard": (lambda job: (_save(job, 8) / "__1_0.distcp").unlink(), "is damaged (__1_0.distcp is missing"),
    "missing index": (lambda job: (_save(job, 8) / ".metadata").unlink(), "is damaged (.metadata is missing"),
    "state of another step": (_other_steps_tensors, "is not what was saved: its optimizer has made 4 updates, 8 when"),
    "moments of another size": (_other_moments, "is not what was saved: the norm of its exp_avg_sq"),
    "other samples": (_other_data, "is not what was saved: the loss of samples"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_before_an_update_and_the_checkpoint_before_is_used(
    name: str, undisturbed: Path, killed: Job, tmp_path: Path
) -> None:
    damage, words = DAMAGE[name]
    job = _copy(killed, tmp_path / "run")
    damage(job)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    log = processes.log(job)
    assert words in log and f"continuing from {_save(job, 4)} at {4 * BATCH} tokens" in log
    assert "step-000000008 at" not in log, "never continued from"
    evidence = json.loads((job.folder / "quarantined" / "step-000000008-1.json").read_text())
    assert words in evidence["why"]
    assert (job.folder / "curve.jsonl").read_bytes() == (undisturbed / "curve.jsonl").read_bytes()
    files = [{p.name: p.read_bytes() for p in (folder / FINAL).iterdir()} for folder in (job.folder, undisturbed)]
    assert files[0] == files[1]


def test_a_finished_milestone_whose_checkpoint_is_damaged_is_made_again(undisturbed: Path, killed: Job, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    job = dataclasses.replace(killed, folder=tmp_path / "run", pause_at_step=0)
    (job.folder / FINAL / "common.pt").write_bytes(b"")
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert (job.folder / "quarantined" / "checkpoint-1").is_dir()
    files = [{p.name: p.read_bytes() for p in (folder / FINAL).iterdir()} for folder in (job.folder, undisturbed)]
    assert files[0] == files[1]


def test_disk_without_room_ends_the_stage_before_a_byte_is_written(undisturbed: Path, killed: Job, tmp_path: Path) -> None:
    job = dataclasses.replace(killed, folder=tmp_path / "run", pause_at_step=0)
    full = dataclasses.replace(job, free_bytes=1000)
    assert processes.run(full, 2) == [1, 1]
    assert [path.name for path in (job.folder / SAVES).iterdir()] == ["step-000000004"]
    assert f"error: No space left on device for a checkpoint in {job.folder / SAVES}: 1e-06 GB are free" in processes.log(job)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert (job.folder / "curve.jsonl").read_bytes() == (undisturbed / "curve.jsonl").read_bytes()


def test_another_layout_passes_the_proof(killed: Job, tmp_path: Path) -> None:
    job = dataclasses.replace(_copy(killed, tmp_path / "run"), recipe=recipe(2, parallel={"tensor": 2}))
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert f"continuing from {_save(job, 8)}" in processes.log(job) and not (job.folder / "quarantined").exists()


def test_a_start_that_is_not_what_was_saved_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(undisturbed / FINAL, start)
    state = json.loads((start / STATE).read_text())
    state["proof"]["loss"] += 0.1
    (start / STATE).write_text(json.dumps(state))
    job = Job(tmp_path / "run", recipe(2, expert=2), start, 2 * STEPS * BATCH)
    assert processes.run(job, 2) == [1, 1]
    assert f"error: {start} is not what was saved: the loss of samples" in processes.log(job)
    assert not (job.folder / "curve.jsonl").exists()


def test_a_milestone_that_would_train_nothing_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(2, expert=2), undisturbed / FINAL, STEPS * BATCH)
    assert processes.run(job, 2) == [1, 1]
    assert f"has {STEPS * BATCH} tokens already, and this milestone ends at {STEPS * BATCH}" in processes.log(job)


def test_checkpoints_that_vanished_are_no_reason_to_begin_again(killed: Job, tmp_path: Path) -> None:
    """As where only temporary saves exist: the steps on record would be overwritten from step 0."""
    job = _copy(killed, tmp_path / "run")
    for save in (job.folder / SAVES).iterdir():
        save.rename(save.with_name(f".{save.name}.writing"))
    before = (job.folder / "curve.jsonl").read_bytes()
    job = dataclasses.replace(job, recipe=recipe(2, expert=2, every_steps=1))
    ranks = processes.start(job, 2)
    assert ranks[0].wait(120) == 1
    processes.kill(ranks)
    assert f"steps behind the newest whole checkpoint (step 0): {8 * BATCH} tokens would be trained again" in processes.log(job)
    assert (job.folder / "curve.jsonl").read_bytes() == before
