"""From spools to a real MLflow database: nested runs, links, and every point exactly once."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from athanor.tracking.destination import Destination
from athanor.tracking.mlflow_adapter import MlflowAdapter
from athanor.tracking.spool import Status
from athanor.tracking.writer import Summary, sync
from tests.tracking.conftest import MakeStore
from tests.tracking.snapshot import client_of, points_of, run_count, runs_of, snapshot
from tests.tracking.synthetic import (
    CAMPAIGN,
    EVALUATE,
    EXPORT,
    FETCH,
    INITIALIZE,
    PATHS,
    PRETRAIN,
    REPORT,
    TOKENIZE,
    log_curve,
    open_spool,
    write_campaign,
)


def drain(store: Path) -> Summary:
    """A sync of campaign `tiny` that must not meet a problem."""
    result = sync(store, "tiny", PATHS)
    assert result.problem == ""
    return result


def steps_of(store: Path, run: Any, name: str = "tokens") -> list[int]:
    return [step for step, _, _ in points_of(store, run)[name]]


def test_a_campaign_becomes_nested_runs_with_datasets_and_models(store: Path) -> None:
    write_campaign(store)
    assert drain(store) == Summary(runs=8, records=61, behind=0)
    runs, client = runs_of(store), client_of(store)
    parent = runs["tiny"]
    assert set(runs) == {"tiny", *(f"{a.stage}/{a.instance}" for a in CAMPAIGN)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    nested = [run for name, run in runs.items() if name != "tiny"]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    assert f"runs/{runs['evaluate/400K'].info.run_id}" in parent.data.tags["mlflow.note.content"]

    pretrain = runs["pretrain/400K"]
    assert pretrain.data.tags["tracking_id"] == f"{PRETRAIN.fingerprint}/001"
    assert pretrain.data.tags["upstream.wiki_en-0"] == TOKENIZE.path
    assert pretrain.data.params["model.hidden_size"] == "128" and pretrain.data.params["result.tokens"] == "400000"
    assert steps_of(store, pretrain) == list(range(1, 41))
    for name in ("fetch/wiki_en", "tokenize/wiki_en-0", "pretrain/400K", "evaluate/400K"):
        assert [d.dataset.name for d in runs[name].inputs.dataset_inputs] == ["wiki_en"], name
    for name in ("initialize/model", "export/400K"):
        assert runs[name].inputs.dataset_inputs == [], name

    def made(name: str) -> str:
        (output,) = runs[name].outputs.model_outputs
        assert client.get_logged_model(output.model_id).source_run_id == runs[name].info.run_id
        return str(output.model_id)

    def taken(name: str) -> list[str]:
        return [str(m.model_id) for m in runs[name].inputs.model_inputs]

    assert taken("pretrain/400K") == [made("initialize/model")]
    assert taken("export/400K") == [made("pretrain/400K")]
    assert taken("evaluate/400K") == [made("export/400K")]
    scores = client.get_logged_model(made("export/400K")).metrics
    assert {score.key: score.value for score in scores} == {"mmlu_dev/accuracy": 0.27, "wiki_en/bits_per_byte": 1.83}
    assert [file.path for file in client.list_artifacts(runs["report/campaign"].info.run_id)] == ["loss.png"]


def test_description_links_to_the_runs_it_was_made_from(store: Path) -> None:
    write_campaign(store)
    drain(store)
    runs = runs_of(store)
    note = runs["evaluate/400K"].data.tags["mlflow.note.content"]
    experiment, export = runs["tiny"].info.experiment_id, runs["export/400K"].info.run_id
    assert f"[export/400K](#/experiments/{experiment}/runs/{export})" in note


def test_repeated_and_piecewise_drains_log_every_point_once(store: Path, make_store: MakeStore) -> None:
    whole, spool = make_store("whole"), open_spool(store, PRETRAIN)
    for begin in range(0, 30, 10):
        log_curve(spool, range(begin, begin + 10))
        drain(store)
        drain(store)
    spool.end(Status.FINISHED)
    drain(store)
    shutil.copytree(store / "pretrain", whole / "pretrain", ignore=shutil.ignore_patterns("*.campaign"))
    drain(whole)
    pages, expected = snapshot(store), snapshot(whole)
    assert pages["pretrain/400K"] == expected["pretrain/400K"] and pages["count"] == expected["count"]
    assert steps_of(store, runs_of(store)["pretrain/400K"]) == list(range(30))


def test_lost_state_is_recovered_from_tags_without_a_second_run_or_point(store: Path) -> None:
    write_campaign(store)
    spool = open_spool(store, PRETRAIN, attempt=2)
    log_curve(spool, range(41, 50))
    drain(store)
    before = snapshot(store)
    shutil.rmtree(store / "tracking")
    log_curve(spool, range(50, 55))
    drain(store)
    after = snapshot(store)
    assert after["count"] == before["count"]
    assert steps_of(store, runs_of(store)["pretrain/400K #2"]) == list(range(41, 55))
    assert {name: page for name, page in after.items() if "#2" not in name and name != "tiny"} == {
        name: page for name, page in before.items() if "#2" not in name and name != "tiny"
    }


def test_a_lost_database_is_filled_again_from_the_spools(store: Path, make_store: MakeStore) -> None:
    write_campaign(store)
    drain(store)
    other = make_store("other")  # the same folders, what the writer remembers among them, and an empty database
    for folder in ["tracking", *{artifact.stage for artifact in CAMPAIGN}]:
        shutil.copytree(store / folder, other / folder)
    drain(other)
    assert snapshot(other) == snapshot(store)


def test_the_attempt_that_finishes_holds_the_whole_curve_each_step_once(store: Path) -> None:
    first = open_spool(store, PRETRAIN, 1)
    log_curve(first, range(1, 25))  # killed at 24, its checkpoint was at 20
    drain(store)
    assert runs_of(store)["pretrain/400K"].info.status == "RUNNING"
    second = open_spool(store, PRETRAIN, 2, start_step=21)
    log_curve(second, range(21, 31))
    second.end(Status.STOPPED, message="walltime", seconds=3)
    drain(store)
    third = open_spool(store, PRETRAIN, 3)
    log_curve(third, range(31, 41))
    third.end(Status.FINISHED, seconds=4)
    drain(store)
    runs = runs_of(store)
    assert [runs[f"pretrain/400K{n}"].info.status for n in ("", " #2", " #3")] == ["KILLED", "KILLED", "FINISHED"]
    assert runs["pretrain/400K #2"].data.tags["message"] == "walltime"
    assert steps_of(store, runs["pretrain/400K"]) == list(range(1, 25))
    assert steps_of(store, runs["pretrain/400K #2"]) == list(range(21, 31))
    assert steps_of(store, runs["pretrain/400K #3"]) == list(range(1, 41))
    assert runs["pretrain/400K #3"].data.metrics["tokens"] == 2048.0 * 40


def test_a_failed_attempt_says_why(store: Path) -> None:
    spool = open_spool(store, PRETRAIN)
    spool.end(Status.FAILED, message="StageError: no space", seconds=1)
    drain(store)
    runs = runs_of(store)
    assert (runs["pretrain/400K"].info.status, runs["tiny"].info.status) == ("FAILED", "FAILED")
    assert runs["pretrain/400K"].data.tags["message"] == "StageError: no space"


def test_a_silent_attempt_is_ended_and_runs_again_when_it_speaks(store: Path) -> None:
    spool = open_spool(store, PRETRAIN)
    log_curve(spool, range(3))
    os.utime(spool.path, (1e9, 1e9))
    drain(store)
    assert runs_of(store)["pretrain/400K"].info.status == "KILLED"
    log_curve(spool, range(3, 5))
    drain(store)
    assert runs_of(store)["pretrain/400K"].info.status == "RUNNING"


def test_odd_names_and_missing_files_cost_nothing_but_themselves(store: Path) -> None:
    said: list[str] = []
    spool = open_spool(store, PRETRAIN)
    spool.params({"lr": "another value", "new": 1, "odd{name}": 2, "long": "x" * 10_000})
    spool.metrics(1, {"odd|name": 1.0, "../up//and/./down": 2.0, "": 3.0, "loss": float("nan"), "up": float("inf")})
    spool.dataset("wiki", "d" * 64, "pip:wiki", "training", {"text": "y" * 20_000})
    spool.artifact("missing.png", "Missing")
    log_curve(spool, range(2, 4))
    assert sync(store, "tiny", PATHS, say=said.append).behind == 0
    run = runs_of(store)["pretrain/400K"]
    assert run.data.params["lr"] == "0.003" and run.data.params["new"] == "1"
    assert steps_of(store, run) == [2, 3] and "odd_name" in run.data.metrics and "loss" in run.data.metrics
    assert "up/and/down" in run.data.metrics and run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert len(said) == 1 and "missing.png" in said[0]


def test_a_record_without_sense_is_left_out_by_name(store: Path) -> None:
    said: list[str] = []
    spool = open_spool(store, PRETRAIN)
    with open(spool.path, "ab") as file:
        file.write(b'{"schema_version":1,"seq":2,"time":1.0,"step":0,"kind":"end","payload":{"status":"gone"}}\n')
        file.write(b'{"schema_version":1,"seq":3,"time":1.0,"step":4,"kind":"metrics","payload":{"a":"x","b":[],"tokens":1}}\n')
    assert sync(store, "tiny", PATHS, say=said.append).behind == 0
    assert steps_of(store, runs_of(store)["pretrain/400K"]) == [4]
    assert len(said) == 1 and "end left out" in said[0]


def test_a_run_that_a_person_deleted_stays_deleted(store: Path) -> None:
    spool = open_spool(store, FETCH)
    drain(store)
    client_of(store).delete_run(runs_of(store)["fetch/wiki_en"].info.run_id)
    spool.end(Status.FINISHED)
    shutil.rmtree(store / "tracking")
    drain(store)
    assert set(runs_of(store)) == {"tiny"}


def test_an_artifact_shared_by_two_campaigns_has_one_run_and_two_links(store: Path) -> None:
    write_campaign(store)
    assert sync(store, "first", [FETCH.path, TOKENIZE.path]).problem == ""
    assert sync(store, "second", PATHS).behind == 0
    first, second = runs_of(store, "first"), runs_of(store, "second")
    assert "fetch/wiki_en" in first and "fetch/wiki_en" not in second
    run = first["fetch/wiki_en"].info
    assert f"#/experiments/{run.experiment_id}/runs/{run.run_id}" in second["evaluate/400K"].data.tags["mlflow.note.content"]
    assert f"runs/{run.run_id}" in second["second"].data.tags["mlflow.note.content"]
    assert second["second"].info.status == "FINISHED"
    assert [d.dataset.name for d in second["evaluate/400K"].inputs.dataset_inputs] == ["wiki_en"]


def killed_while_draining(store: Path, calls: int, after: bool) -> bool:
    """A process that drains `store` and kills itself at its call number `calls` to MLflow. Whether it came so far."""
    pid = os.fork()
    if pid == 0:
        count_calls(calls, after)
        sync(store, "tiny", PATHS)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def count_calls(fatal: int, after: bool) -> None:
    """Make the `fatal`-th write to MLflow's client the last thing this process does, before or after its effect."""
    from mlflow import MlflowClient

    left = [fatal]

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in ("create_experiment", "create_run", "log_batch", "log_inputs", "log_outputs", "_create_logged_model"):
        setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))
    for name in ("finalize_logged_model", "set_terminated", "update_run", "log_artifact"):
        setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))


@pytest.mark.slow
def test_writers_killed_at_random_points_leave_the_same_campaign_as_an_undisturbed_one(make_store: MakeStore) -> None:
    random, undisturbed, disturbed = Random(20), make_store("undisturbed"), make_store("disturbed")
    write_campaign(undisturbed, points=2000)
    spool = open_spool(undisturbed, PRETRAIN, 2, start_step=1500)
    log_curve(spool, range(1500, 2500))
    spool.end(Status.FINISHED)
    for stage in {artifact.stage for artifact in CAMPAIGN}:
        shutil.copytree(undisturbed / stage, disturbed / stage)
    drain(undisturbed)
    kills = 0
    while killed_while_draining(disturbed, random.randint(1, 12), after=random.random() < 0.5):
        kills += 1
    drain(disturbed)
    assert kills >= 10
    expected, found = snapshot(undisturbed), snapshot(disturbed)
    assert found == expected


def test_a_locked_database_costs_nothing_and_a_later_sync_brings_all(store: Path) -> None:
    write_campaign(store)
    spools = sorted(store.glob("*/*/tracking/*.jsonl"))
    before = [path.read_bytes() for path in spools]
    with sqlite3.connect(store / "mlflow" / "mlflow.db") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        result = sync(store, "tiny", PATHS)
        assert "did not answer" in result.problem and result.behind == sum(map(len, before))
        holder.rollback()
    assert [path.read_bytes() for path in spools] == before
    assert drain(store) == Summary(runs=8, records=61, behind=0)
    assert run_count(store) == 9


def test_an_unwritable_database_is_a_problem_that_names_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_campaign(store)
    (store / "mlflow" / "mlflow.db").mkdir(parents=True)  # root may write read-only files
    result = sync(store, "tiny", PATHS)
    assert "mlflow.db" in result.problem and result.behind > 0
    (store / "mlflow" / "mlflow.db").rmdir()
    assert sync(store, "tiny", PATHS).problem == ""


def test_an_unreachable_server_is_a_problem_and_the_spools_stay(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_campaign(store)
    result = sync(store, "tiny", PATHS, uri="http://user:secret@127.0.0.1:9")
    assert result.behind > 0 and result.runs == 0
    assert "http://127.0.0.1:9 did not answer" in result.problem and "secret" not in result.problem
    assert sync(store, "tiny", PATHS).behind == 0  # another destination


def test_keys_of_destinations_show_no_password(tmp_path: Path) -> None:
    to = Destination(tmp_path, "postgresql://user:secret@db/mlflow")
    assert "secret" not in to.shown + to.key + str(to.state_path("tiny"))
    assert to.artifact_root == tmp_path / "mlflow" / "artifacts"
    assert Destination(tmp_path, "https://mlflow.example.org").artifact_root is None


def test_upstreams_unknown_to_this_mlflow_are_named_without_a_link(store: Path) -> None:
    open_spool(store, EVALUATE).end(Status.FINISHED)
    drain(store)
    assert "export/400K (not in this MLflow)" in runs_of(store)["evaluate/400K"].data.tags["mlflow.note.content"]


def test_a_finished_stage_that_makes_weights_leaves_a_model_without_recording_one(store: Path) -> None:
    for artifact in (INITIALIZE, EXPORT, REPORT):
        open_spool(store, artifact).end(Status.FINISHED)
    drain(store)
    runs = runs_of(store)
    assert all(runs[name].outputs.model_outputs for name in ("initialize/model", "export/400K"))
    assert not (runs["report/campaign"].outputs and runs["report/campaign"].outputs.model_outputs)


def test_adapter_reads_back_what_it_wrote(store: Path) -> None:
    write_campaign(store)
    drain(store)
    adapter = MlflowAdapter(Destination(store).uri)
    run = adapter.find_run(adapter.experiments(), {"fingerprint": EVALUATE.fingerprint})
    assert run is not None and run.name == "evaluate/400K" and len(run.inputs) == 1
    assert run.datasets[0].context == "evaluate" and "1200" in run.datasets[0].profile
