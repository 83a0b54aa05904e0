"""A request in the folder of a running stage has every rank trace its next steps, and changes nothing else."""

import gzip
import json
from pathlib import Path

import pytest

from athanor.training.profiling import REQUEST, TRACES
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe


@pytest.fixture
def job(fresh: Path, tmp_path: Path) -> Job:
    job = Job(tmp_path / "run", recipe(2, expert=2), fresh, 6 * BATCH)
    job.folder.mkdir()
    return job


def test_every_rank_traces_the_steps_that_were_asked_for(job: Job, fresh: Path, tmp_path: Path) -> None:
    (job.folder / REQUEST).write_text(json.dumps({"steps": 2}))
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert not (job.folder / REQUEST).exists()
    traces = sorted((job.folder / TRACES).iterdir())
    assert [path.name for path in traces] == [f"steps-2-3-rank-{rank}.json.gz" for rank in (0, 1)]
    for path in traces:
        names = [event.get("name") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
        assert names.count("aten::embedding") == 2 * 1, "one micro-batch a rank and step"
    assert f"traced steps 2 to 3: {job.folder / TRACES}" in processes.log(job)
    plain = Job(tmp_path / "plain", job.recipe, fresh, job.end_tokens)
    assert processes.run(plain, 2) == [0, 0], processes.log(plain)
    assert (plain.folder / "curve.jsonl").read_bytes() == (job.folder / "curve.jsonl").read_bytes()


@pytest.mark.parametrize("text", ["", "{}", '{"steps": "many"}', "[]"])
def test_what_is_no_request_is_deleted_and_ignored(text: str, job: Job) -> None:
    (job.folder / REQUEST).write_text(text)
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert not (job.folder / REQUEST).exists() and not (job.folder / TRACES).exists()


def test_a_run_that_ends_before_the_last_step_writes_no_trace(job: Job) -> None:
    (job.folder / REQUEST).write_text(json.dumps({"steps": 100}))
    assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert not (job.folder / TRACES).exists()
