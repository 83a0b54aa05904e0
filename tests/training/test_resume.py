"""A run that is killed, stopped, damaged or cut in two ends in the same bytes as one that nothing happened to.

Real processes, two ranks, experts spread over both.
"""

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.artifacts.run import STOPPED
from athanor.training.checkpoints import FINAL, SAVES, read_state
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS, KILLED_AT = 14, 11  # with a checkpoint every 4 steps
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def make_job(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> MakeJob:
    """A job of two ranks and 14 steps in a folder of its own, changed by `keys`."""

    def make(name: str, **keys: object) -> Job:
        folder = tmp_path_factory.mktemp(name) / "artifact"
        return dataclasses.replace(Job(folder, recipe(2, expert=2), fresh, STEPS * BATCH), **keys)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def undisturbed(make_job: MakeJob) -> Path:
    job = make_job("undisturbed")
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    return job.folder


@pytest.fixture(scope="module")
def killed(make_job: MakeJob) -> Path:
    """What SIGKILL to all ranks left, three steps behind the last checkpoint."""
    job = make_job("killed", pause_at_step=KILLED_AT)
    ranks = processes.start(job, 2)
    processes.wait_for([job.folder / "paused-0", job.folder / "paused-1"], ranks)
    processes.kill(ranks)
    return job.folder


def _result(folder: Path) -> dict[str, bytes]:
    """All declared files of a finished run."""
    files = [folder / "curve.jsonl", folder / "validation.json", *(folder / FINAL).iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _copy(folder: Path, make_job: MakeJob) -> Job:
    job = make_job("copy")
    shutil.copytree(folder, job.folder)
    return job


def test_kill_of_all_ranks_then_restart_ends_in_the_same_bytes(undisturbed: Path, killed: Path, make_job: MakeJob) -> None:
    job = _copy(killed, make_job)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert f"at {8 * BATCH} tokens" in processes.log(job), "continued from the checkpoint of step 8"
    assert _result(job.folder) == _result(undisturbed)
    assert not (job.folder / SAVES).exists(), "checkpoints of the way are gone"


def test_roll_back_continues_from_the_checkpoint_before_the_newest(undisturbed: Path, killed: Path, make_job: MakeJob) -> None:
    job = dataclasses.replace(_copy(killed, make_job), roll_back=True)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert f"at {4 * BATCH} tokens" in processes.log(job), "continued from the checkpoint of step 4"
    assert [path.name for path in (job.folder / "quarantined").glob("step-*[0-9]")] == ["step-000000008-1"]
    assert _result(job.folder) == _result(undisturbed)


def test_half_written_save_is_ignored_and_removed(undisturbed: Path, killed: Path, make_job: MakeJob) -> None:
    job = _copy(killed, make_job)
    whole, broken = job.folder / SAVES / "step-000000008", job.folder / SAVES / ".step-000000010.writing"
    shutil.copytree(whole, broken)
    (broken / "state.json").unlink()
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert f"at {8 * BATCH} tokens" in processes.log(job)
    assert _result(job.folder) == _result(undisturbed)


@pytest.mark.slow
def test_stop_of_one_rank_saves_on_all_and_continues(undisturbed: Path, make_job: MakeJob) -> None:
    job = make_job("stopped", pause_at_step=7)
    ranks = processes.start(job, 2)
    paused = [job.folder / "paused-0", job.folder / "paused-1"]
    processes.wait_for(paused, ranks)
    ranks[1].send_signal(signal.SIGTERM)
    for path in paused:
        path.unlink()
    assert processes.wait(ranks) == [STOPPED, STOPPED], processes.log(job)
    [newest] = sorted((job.folder / SAVES).glob("step-*"))[-1:]
    assert read_state(newest).position.step == 7, "stopped after the step that was under way"
    job = dataclasses.replace(job, pause_at_step=0)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert _result(job.folder) == _result(undisturbed)


@pytest.mark.slow
def test_two_milestones_are_one_uninterrupted_run(undisturbed: Path, make_job: MakeJob) -> None:
    first = make_job("first", end_tokens=6 * BATCH)
    assert processes.run(first, 2) == [0, 0], processes.log(first)
    second = make_job("second", start=first.folder / FINAL)
    assert processes.run(second, 2) == [0, 0], processes.log(second)
    curves = _result(first.folder)["curve.jsonl"] + _result(second.folder)["curve.jsonl"]
    assert curves == _result(undisturbed)["curve.jsonl"]
    once, twice = _result(undisturbed), {**_result(second.folder), "curve.jsonl": curves}
    for name in ("checkpoint/expert_load.npy", "checkpoint/state.json"):  # the history of a milestone, and its hash
        del once[name], twice[name]
    assert once == twice
    assert json.loads((second.folder / "outcome.json").read_text())["counters"] == {
        "step": STEPS,
        "tokens": STEPS * BATCH,
        "samples": STEPS * 8,
    }


def test_finished_run_started_again_computes_nothing(undisturbed: Path, make_job: MakeJob) -> None:
    job = _copy(undisturbed, make_job)
    shutil.rmtree(job.folder / "tracking")
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert _result(job.folder) == _result(undisturbed)
    [spool] = (job.folder / "tracking").iterdir()
    assert '"loss"' not in spool.read_text()


def test_checkpoint_at_the_end_without_validation_is_completed(undisturbed: Path, make_job: MakeJob) -> None:
    job = _copy(undisturbed, make_job)
    (job.folder / SAVES).mkdir()
    (job.folder / FINAL).rename(job.folder / SAVES / f"step-{STEPS:09d}")
    (job.folder / "validation.json").unlink()
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert _result(job.folder) == _result(undisturbed)
