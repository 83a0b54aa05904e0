"""Online RL by another trainer: what it is told and tells, how it is stopped and goes on, and which results are refused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from athanor.artifacts.run import Heartbeat, StageError, StageRun, Stopped
from athanor.external.contract import ContractError, Follower, Handover, Told, join_told, tell
from athanor.stages.external import TrainerError
from athanor.stages.online_external import learn_elsewhere
from athanor.tracking.spool import Kind, read_records
from tests.external.stages import LENGTH, TOKENS, TRAINER, lay_out, stage_in
from tests.lifecycle.project import wait_until
from tests.rl.test_rollouts import folder as model

__all__ = ["model"]  # a fixture


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a start and a pool, in a process whose signals are put back."""
    lay_out(tmp_path, model)
    (tmp_path / "start" / "model" / "tokenizer.json").write_text("{}")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("SUBMITIT_GRACE_SECONDS", "30")
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def lines(stage: StageRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]


def stop_behind(stage: StageRun, steps: int) -> threading.Thread:
    """Ask this process to stop once the trainer has told of so many steps."""
    stage.listen_for_stop()
    path = stage.folder / "external" / f"{stage.attempt:03d}" / "metrics.jsonl"

    def ask() -> None:
        wait_until(lambda: path.is_file() and path.read_text().count("\n") >= steps, "the trainer's lines", 60)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_trainer_is_told_everything_and_its_model_becomes_the_artifacts(place: Path, tmp_path: Path) -> None:
    (beats := tmp_path / "attempt").mkdir()
    version = f"{sys.executable} -c \"print('crucible 1.2'); print('more')\""
    stage = stage_in(place, {"lr": 1e-3, "nested": {"deep": [1, 2]}}, version=version)
    stage.heartbeat = Heartbeat(beats, 0.0)
    outcome = learn_elsewhere(stage)
    told = Handover.read(stage.folder / "external" / "001" / "handover.json")
    assert (told.stage, told.attempt, told.seed, told.budget.tokens) == ("online/model", 1, 7, TOKENS)
    assert told.budget.answers == TOKENS // LENGTH and told.asked.mixture == {"sums": 1.0}
    assert told.settings == {"lr": 1e-3, "nested": {"deep": [1, 2]}} and told.stop.grace_seconds == pytest.approx(27)
    assert told.inputs["start"].fingerprint == "s" * 16 and told.inputs["pool"].path.endswith("pool/pool.jsonl.gz")
    before, behind = (load_file(path / "model" / "model.safetensors") for path in (place / "start", stage.folder))
    assert all(torch.allclose(behind[name], before[name] + 8) for name in before)
    assert (stage.folder / "model" / "tokenizer.json").read_text() == "{}", "the start's, since it left none"
    assert outcome.files == ("model", "metrics.jsonl")
    assert outcome.counters == {"step": 8, "tokens": TOKENS, "answers": TOKENS // LENGTH}
    assert outcome.metrics == {"reward": 1.0} and outcome.trainer["version"] == "crucible 1.2"
    [mark] = beats.glob("heartbeat-*.json")
    assert json.loads(mark.read_text())["done"] == TOKENS
    records = list(read_records(stage.folder / "tracking" / "001.jsonl"))
    assert [r.payload["reward"] for r in records if r.kind is Kind.METRICS] == [step / 8 for step in range(1, 9)]
    [params] = [r.payload for r in records if r.kind is Kind.PARAMS]
    assert params["trainer"] == {"command": f"python {TRAINER} {{handover}}", "version": "crucible 1.2", "files": ""}
    assert not (stage.folder / "external" / "checkpoints").exists(), "nobody goes on from these"
    again = learn_elsewhere(stage_in(place, {"does": "fail"}, attempt=2))
    assert again.counters == outcome.counters, "finished bytes are taken as they are"


def test_failure_is_told_with_the_end_of_the_log(place: Path) -> None:
    with pytest.raises(TrainerError, match=r"ended with 3 at 512 tokens; the end of .*/external/001/rank-0\.log") as failed:
        learn_elsewhere(stage_in(place, {"does": "fail"}))
    assert str(failed.value).endswith("CUDA out of memory: tried to allocate a crucible"), "which the executor's policy reads"
    assert not (place / "online" / "model").exists()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("reshape", r"lm_head\.weight has the shape \[1280\], in the start \[40, 32\]"),
        ("burn", r"lm_head\.weight is not finite"),
        ("drop", r"lm_head\.weight is missing"),
        ("forget", r"config\.json is missing: save the model as transformers does"),
        ("hurry", rf"told of 1536 of {TOKENS} tokens"),
        ("babble", r'line 2, "lead": is no \{"step"'),
    ],
)
def test_what_is_no_result_is_refused_by_name(place: Path, does: str, said: str) -> None:
    with pytest.raises(StageError, match=said) as refused:
        learn_elsewhere(stage_in(place, {"does": does}))
    assert refused.value.kind == "refused" and not (place / "online" / "model").exists()


def test_soft_stop_is_passed_on_and_the_next_start_goes_on(place: Path) -> None:
    stage = stage_in(place, {"does": "linger"})
    asking = stop_behind(stage, 4)
    with pytest.raises(Stopped, match="online/model at 1024 tokens, its trainer ended with 75"):
        learn_elsewhere(stage)
    asking.join()
    after = stage_in(place, {"does": "linger"}, attempt=2)
    assert learn_elsewhere(after).counters["step"] == 8
    second = (after.folder / "external" / "002" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in second] == [5, 6, 7, 8], "no step twice"
    assert [line["step"] for line in lines(after)] == list(range(1, 9))


def test_trainer_that_does_not_heed_the_stop_is_killed_and_the_stage_stops(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_GRACE_SECONDS", "1")
    stage = stage_in(place, {"does": "hang"})
    asking = stop_behind(stage, 4)
    with pytest.raises(Stopped, match="at 1024 tokens, its trainer ended with -9"):
        learn_elsewhere(stage)
    asking.join()
    assert learn_elsewhere(stage_in(place, {"does": "hang"}, attempt=2)).counters["step"] == 8


def start(place: Path, settings: dict[str, Any], rank: int) -> "subprocess.Popen[bytes]":
    """The stage in a process of its own."""
    words = [sys.executable, "-m", "tests.external.stages", str(place), json.dumps(settings)]
    return subprocess.Popen(words, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"})


def test_killed_stage_takes_its_trainer_with_it_and_resumes(place: Path) -> None:
    stage = start(place, {"does": "hang"}, rank=0)
    told = place / "online" / "external" / "001" / "metrics.jsonl"
    wait_until(lambda: told.is_file() and told.read_text().count("\n") == 4, "four steps", 60)
    [trainer] = psutil.Process(stage.pid).children()
    stage.kill()
    stage.wait()
    wait_until(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE, "the trainer's end", 30)
    after = stage_in(place, {"does": "hang"}, attempt=2)
    assert learn_elsewhere(after).counters["tokens"] == TOKENS
    assert [line["step"] for line in lines(after)] == list(range(1, 9))


def test_every_rank_starts_the_trainer_with_the_same_handover(place: Path) -> None:
    other = start(place, {"does": "linger"}, rank=1)
    log = place / "online" / "external" / "001" / "rank-1.log"
    asking = stop_behind(stage := stage_in(place, {"does": "linger"}), 4)
    with pytest.raises(Stopped):
        learn_elsewhere(stage)
    asking.join()
    assert other.wait(120) == 0 and log.read_text() == "rank 1 of 2 trains\n"
    assert not (stage.folder / "model").exists(), "only the first rank's trainer leaves one"


def test_result_is_taken_when_every_ranks_trainer_has_ended_well(place: Path) -> None:
    first, told = start(place, {}, rank=0), place / "online" / "external" / "001" / "metrics.jsonl"
    wait_until(lambda: told.is_file() and told.read_text().count("\n") == 8, "the first rank's lines", 60)
    time.sleep(1)
    assert first.poll() is None and not (place / "online" / "model").exists(), "the other's is not there yet"
    second = start(place, {}, rank=1)
    assert (first.wait(120), second.wait(120)) == (0, 0) and (place / "online" / "model").is_dir()


def test_lines_that_a_later_attempt_did_again_count_once(tmp_path: Path) -> None:
    for name, steps in (("1", (1, 2, 3)), ("2", (3, 4)), ("4", (5,))):
        for step in steps:
            tell(tmp_path / name, Told(step, 10 * step, {"attempt": float(name)}))
    for name, wrong in (("1", '{"step": 4, "tok'), ("2", "what is no line\n"), ("4", '{"step": 6, "tokens": 60}\n')):
        with (tmp_path / name).open("a") as file:
            file.write(wrong)
    joined = join_told(tmp_path / name for name in ("1", "2", "3", "4"))
    assert [(told.step, told.values.get("attempt")) for told in joined] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (6, None)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"step": 1}', "is no"),
        ('{"step": 2.5, "tokens": 1}', "step and tokens are whole numbers from 0"),
        ('{"step": 2, "tokens": 1, "loss": "low"}', "loss is no number"),
        ('{"step": 1, "tokens": 30}', "goes back behind step 2 and 20 tokens"),
    ],
)
def test_line_that_is_none_is_told_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    tell(tmp_path / "lines", Told(2, 20, {}))
    with (tmp_path / "lines").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ContractError, match=f"line 2, .*: {said}"):
        list(Follower(tmp_path / "lines").new())


def test_handover_of_another_contract_is_refused(place: Path) -> None:
    learn_elsewhere(stage := stage_in(place, {}))
    path = stage.folder / "external" / "001" / "handover.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "contract": 2}))
    with pytest.raises(ContractError, match="has contract 2, this program knows 1"):
        Handover.read(path)
