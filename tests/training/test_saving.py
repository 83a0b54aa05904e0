"""Saves are written while training goes on: nothing of that may be seen in what they hold, or in what a kill leaves."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.manifest import MANIFEST, Manifest, Provenance, Result, Upstream
from athanor.artifacts.run import Input, StageRun
from athanor.recipe.schema.training import Checkpoint
from athanor.stages.pretrain import failures_so_far
from athanor.training.checkpoints import FINAL, SAVES, read_state
from athanor.training.failures import Failures
from athanor.training.intervals import HOUR, young_interval
from tests.cluster.attempts import Attempts, Start
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 12
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def make_job(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> MakeJob:
    """A job of two ranks whose section `pretrain.checkpoint` is given; other keys are the job's."""

    def make(checkpoint: Checkpoint, **keys: Any) -> Job:
        made = recipe(2, expert=2, checkpoint=checkpoint)
        return Job(tmp_path_factory.mktemp("saving") / "run", made, fresh, STEPS * BATCH, **keys)

    return make


@pytest.fixture(scope="module")
def waited_for(make_job: MakeJob) -> Job:
    """A run whose training waits for every save."""
    job = make_job(Checkpoint(every_tokens=3 * BATCH, asynchronous=False))
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    return job


def _result(job: Job) -> dict[str, bytes]:
    files = [job.folder / "curve.jsonl", job.folder / "validation.json", *(job.folder / FINAL).iterdir()]
    return {path.name: path.read_bytes() for path in files}


def _points(job: Job, name: str) -> list[float]:
    lines = [json.loads(line) for path in (job.folder / "tracking").iterdir() for line in path.read_text().splitlines()]
    return [line["payload"][name] for line in lines if name in line["payload"]]


@pytest.mark.parametrize("local_first", [False, True])
def test_save_in_the_background_holds_what_one_holds_that_is_waited_for(
    waited_for: Job, make_job: MakeJob, local_first: bool, tmp_path: Path
) -> None:
    job = make_job(Checkpoint(every_tokens=3 * BATCH, local_first=local_first))
    ranks = processes.start(job, 2, TMPDIR=str(tmp_path))
    assert processes.wait(ranks) == [0, 0], processes.log(job)
    assert _result(job) == _result(waited_for)
    assert len(_points(job, "checkpoint_stall_seconds")) == STEPS // 3
    assert not list(tmp_path.iterdir()), "nothing stays on the node's disk"


def test_kill_while_a_save_is_written_leaves_the_one_before(waited_for: Job, make_job: MakeJob) -> None:
    job = make_job(Checkpoint(every_tokens=3 * BATCH), slow_writes_from=6)
    ranks = processes.start(job, 2)
    processes.wait_for([job.folder / SAVES / ".step-000000006.writing" / "expert_load.npy"], ranks)
    processes.wait_for([job.folder / "writing-0", job.folder / "writing-1"], ranks)
    processes.kill(ranks)
    assert [read_state(path).position.step for path in (job.folder / SAVES).glob("step-*")] == [3]
    job = dataclasses.replace(job, slow_writes_from=0)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert f"at {3 * BATCH} tokens" in processes.log(job)
    assert _result(job) == _result(waited_for)


def test_training_goes_on_while_a_save_is_written(make_job: MakeJob) -> None:
    """The save of step 6 is written until the test has seen step 10 begin."""
    job = make_job(Checkpoint(every_tokens=6 * BATCH), slow_writes_from=6, pause_at_step=10)
    ranks = processes.start(job, 2)
    processes.wait_for([job.folder / "writing-0", job.folder / "writing-1", job.folder / "paused-0"], ranks)
    assert not list((job.folder / SAVES).glob("step-*"))
    processes.wait_for([job.folder / "paused-1"], ranks)
    for rank in (0, 1):
        (job.folder / f"writing-{rank}").unlink()
        (job.folder / f"paused-{rank}").unlink()
    assert processes.wait(ranks) == [0, 0], processes.log(job)


def test_rank_that_cannot_write_ends_all_and_the_save_before_stays(waited_for: Job, make_job: MakeJob) -> None:
    job = make_job(Checkpoint(every_tokens=3 * BATCH), failing_writes_from=6)
    assert processes.run(job, 2) == [1, 1]
    assert "No space left on device" in processes.log(job, 1)
    assert "another rank could not write its part of" in processes.log(job, 0)
    job = dataclasses.replace(job, failing_writes_from=0)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert f"at {3 * BATCH} tokens" in processes.log(job)
    assert _result(job) == _result(waited_for)


def test_interval_of_young_and_daly_follows_cost_and_failures(waited_for: Job, make_job: MakeJob) -> None:
    """Failures every hundredth of a second: a save as soon as its own stall is worth it. One in a year: the first alone."""
    often = make_job(Checkpoint(every_tokens=0, node_hours_between_failures=1e-6))
    seldom = make_job(Checkpoint(every_tokens=0, node_hours_between_failures=1e4))
    saves = {}
    for name, job in (("often", often), ("seldom", seldom)):
        assert processes.run(job, 2) == [0, 0], processes.log(job)
        assert _result(job) == _result(waited_for)
        saves[name] = _points(job, "checkpoint_stall_seconds")
    assert len(saves["seldom"]) == 2 < len(saves["often"]), "the first, which shows what one costs, and the last"


def test_interval_follows_the_failures_that_the_journal_has(make_job: MakeJob) -> None:
    """10,000 node-hours without a failure outweigh a recipe that supposes one at any moment; a failure halves the time again."""
    supposed = 1e-6
    hours, saves = {}, {}
    for cause in ("preempted", "node failed"):
        job = make_job(Checkpoint(every_tokens=0, node_hours_between_failures=supposed))
        Attempts(job.folder).add(Start(("node1", "node2"), hours=5000), cause=cause)
        assert processes.run(job, 2) == [0, 0], processes.log(job)
        stalls, intervals = (_points(job, f"checkpoint_{name}_seconds") for name in ("stall", "interval"))
        hours[cause] = intervals[0] ** 2 / (2 * stalls[0] * HOUR)  # of one node: the ranks run on this machine
        saves[cause] = len(stalls)
    assert hours == pytest.approx({"preempted": 1e4, "node failed": 5e3})
    assert set(saves.values()) == {2}, "the first, which shows what one costs, and the last"
    assert "saves as for a failure every 5000 node-hours: 1 of machines in 1e+04 node-hours" in processes.log(job)
    assert "saves as for" not in processes.log(job, 1)


def test_failures_of_earlier_milestones_count_as_far_back_as_they_are_kept(tmp_path: Path) -> None:
    """The third milestone's own, the second's and the first's; not what came before training."""
    before, folders = Upstream("initialize", "model", "0" * 16), []
    for number, name in enumerate(("first", "second"), 1):
        folder = tmp_path / "pretrain" / (str(number) * 16)
        folder.mkdir(parents=True)
        Attempts(folder).add(Start(("node1",), hours=number), cause="crashed")
        result = Result("pretrain", name, folder.name, {"start": before}, ())
        Manifest(result, Provenance("", 1, 0.0, 0.0, "", "")).write(folder)
        before = Upstream("pretrain", name, folder.name)
        folders.append(folder)
    third = tmp_path / "pretrain" / ("3" * 16)
    third.mkdir()
    start = Input(folders[1], Manifest.read(folders[1] / MANIFEST))
    stage = StageRun(recipe(), "pretrain", "third", third.name, third, {"start": start})
    assert failures_so_far(stage) == Failures(2, pytest.approx(3.0))
    (folders[0] / MANIFEST).unlink()
    assert failures_so_far(stage) == Failures(1, pytest.approx(2.0))


def test_failures_correct_what_is_supposed() -> None:
    assert Failures().node_hours_between(6000) == 6000
    assert Failures(0, 6000).node_hours_between(6000) == 12000
    assert Failures(9, 4000).node_hours_between(6000) == 1000
    assert Failures(1000, 2_000_000).node_hours_between(6000) == pytest.approx(2000, rel=0.01), "the record outweighs it"


def test_interval_is_youngs() -> None:
    assert young_interval(stall=2.0, node_hours=6000, nodes=2000) == pytest.approx(math.sqrt(2 * 2.0 * 3 * 3600))
