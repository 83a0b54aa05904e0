"""`athanor verify | where | logs | profile | summary`: what a person asks about artifacts."""

import json
import os
import threading
import time
from collections.abc import Callable
from io import StringIO

import pytest

from athanor.artifacts.manifest import MANIFEST
from athanor.campaign.campaign import Campaign
from athanor.campaign.inspection import NoSuchStage, log_path, print_log, select, verify
from athanor.campaign.registry import register
from athanor.campaign.summary import print_summary
from tests.campaign.conftest import Furnace

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def done(furnace: Furnace) -> Campaign:
    """A campaign that ran to its end."""
    campaign = furnace.campaign()
    register(campaign)
    furnace.finish_all(campaign)
    return campaign


def names(campaign: Campaign, *wanted: str) -> list[str]:
    return [artifact.name for artifact in select(campaign, wanted)]


def test_stage_is_named_alone_or_with_its_instance_or_by_fingerprint(done: Campaign) -> None:
    assert names(done, "pretrain") == ["pretrain/400K", "pretrain/1M", "pretrain/shuffled"]
    assert names(done, "pretrain/1M", "fetch/prose") == ["pretrain/1M", "fetch/prose"]
    assert names(done, done.lifecycle["export/1M"].fingerprint) == ["export/1M"]
    assert len(names(done)) == 18


def test_unknown_stage_lists_those_there_are(done: Campaign, run_cli: RunCli) -> None:
    with pytest.raises(NoSuchStage, match="campaign base has no stage 'pretrian'; there are fetch, tokenizer, "):
        select(done, ["pretrian"])
    for command in ("verify", "where", "logs"):
        code, _, complaint = run_cli(command, "pretrian")
        assert code == 1
        assert complaint.startswith("error: campaign base has no stage 'pretrian'")


def test_whole_campaign_verifies(done: Campaign, run_cli: RunCli) -> None:
    code, out, _ = run_cli("verify", "--deep")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [[artifact.name, "whole"] for artifact in done.lifecycle]


def test_damage_is_named_and_exits_1(done: Campaign, run_cli: RunCli) -> None:
    folder = done.store.folder(done.lifecycle["export/1M"])
    (folder / "bytes").write_text("0" * 16)
    assert run_cli("verify", "export")[0] == 0
    code, out, _ = run_cli("verify", "export", "--deep")
    assert code == 1
    assert "export/1M" in out.splitlines()[1]
    assert "bytes has sha256" in out.splitlines()[1]
    (folder / "bytes").unlink()
    assert "bytes is missing" in run_cli("verify", "export/1M")[1]


def test_missing_and_foreign_manifests_are_told_apart(furnace: Furnace, done: Campaign) -> None:
    one, other = done.lifecycle["export/1M"], done.lifecycle["export/untrained"]
    (done.store.folder(one) / MANIFEST).unlink()
    (done.store.folder(other) / MANIFEST).write_text((done.store.folder(done.lifecycle["fetch/prose"]) / MANIFEST).read_text())
    found = {artifact.name: wrong for artifact, wrong in verify(done, [one, other], deep=False)}
    fetched = done.lifecycle["fetch/prose"].fingerprint
    assert found == {
        "export/1M": ["has no readable manifest (waiting)"],
        "export/untrained": [f"its manifest says {fetched}, its folder {other.fingerprint}"],
    }


def test_where_prints_one_folder_bare_and_many_with_names(done: Campaign, run_cli: RunCli) -> None:
    assert run_cli("where", "export/1M")[1] == f"{done.store.folder(done.lifecycle['export/1M'])}\n"
    lines = run_cli("where", "pretrain")[1].splitlines()
    assert [line.split() for line in lines] == [
        [artifact.name, str(done.store.folder(artifact))] for artifact in done.lifecycle.of("pretrain")
    ]


def test_logs_are_the_newest_attempts(furnace: Furnace, run_cli: RunCli) -> None:
    campaign = furnace.campaign()
    artifact = campaign.lifecycle["fetch/prose"]
    code, _, complaint = run_cli("logs", "fetch/prose")
    assert code == 1
    assert complaint.startswith("fetch/prose has no log of rank 0 in ")
    furnace.begin(campaign, artifact, attempt=1)
    second = furnace.begin(campaign, artifact, attempt=2)
    (second / "rank-1.log").write_text("of rank 1\n")
    assert run_cli("logs", "fetch/prose")[1] == "attempt 2 of fetch/prose\nlast words\n"
    assert run_cli("logs", "fetch/prose", "--rank", "1")[1] == "of rank 1\n"
    assert run_cli("logs", "fetch/prose", "--rank", "7")[0] == 1


def test_log_beside_the_manifest_is_the_last_resort(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    folder = campaign.store.folder(campaign.lifecycle["fetch/prose"])
    folder.mkdir(parents=True)
    (folder / "stage.log").write_text("hello")
    assert log_path(folder, 0) == folder / "stage.log"
    assert log_path(folder, 1) is None


def test_followed_log_goes_on_until_the_stage_is_done(furnace: Furnace, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = furnace.campaign()
    artifact = campaign.lifecycle["fetch/prose"]
    attempt = furnace.begin(campaign, artifact)
    follower = threading.Thread(target=print_log, args=(campaign.store.folder(artifact), attempt / "rank-0.log", True))
    follower.start()
    with open(attempt / "rank-0.log", "a") as log:
        log.write("more\n")
    furnace.finish(campaign, artifact)
    follower.join(timeout=60)
    assert capsys.readouterr().out == "attempt 1 of fetch/prose\nlast words\nmore\n"


def test_summary_says_what_is_done_what_it_says_and_where_to_look(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    register(campaign)
    furnace.finish(campaign, campaign.lifecycle["pretrain/1M"], loss=3.14159)
    furnace.finish(campaign, campaign.lifecycle["export/1M"])
    out = StringIO()
    print_summary(campaign, out)
    lines = {line.split()[0]: line for line in out.getvalue().splitlines() if line.strip()}
    assert "2.5" in lines["pretrain/1M"]
    assert "loss 3.142" in lines["pretrain/1M"]
    assert "tokens 7,000" in lines["export/1M"]
    assert lines["pretrain/400K"].split()[1:] == ["not", "done"]
    assert "16 stages are missing: snakemake makes them; 5 s of stage time in all" in out.getvalue()
    model = campaign.folder / "export" / "1M" / "model"
    assert str(model) in out.getvalue()
    assert os.path.realpath(model.parent) == str(campaign.store.folder(campaign.lifecycle["export/1M"]))


def test_summary_of_a_finished_campaign_says_so(done: Campaign, run_cli: RunCli) -> None:
    code, out, _ = run_cli("summary")
    assert code == 0
    assert "every stage is done; 45 s of stage time in all" in out


def test_unknown_recipe_is_one_line_and_exits_1(furnace: Furnace, capsys: pytest.CaptureFixture[str]) -> None:
    from athanor.cli import main

    assert main(["summary", "--recipe", "bsae"]) == 1
    assert "did you mean base?" in capsys.readouterr().err


def test_unknown_stage_command_lists_stages(furnace: Furnace, capsys: pytest.CaptureFixture[str]) -> None:
    from athanor.cli import main

    code = main(["stage", "bake", "--recipe", "x", "--site", "laptop", "--manifest", "y"])
    assert code == 2
    assert "no stage 'bake'; there are fetch, tokenizer" in capsys.readouterr().err


def test_profile_waits_for_the_traces_of_a_running_stage(furnace: Furnace, run_cli: RunCli) -> None:
    campaign = furnace.campaign()
    register(campaign)
    code, _, complaint = run_cli("profile", "pretrain")
    assert code == 1 and complaint.startswith("pretrain: no training stage of that name runs")
    artifact = next(iter(campaign.lifecycle.of("pretrain")))
    furnace.begin(campaign, artifact, attempt=1)
    folder = campaign.store.folder(artifact)

    def be_the_stage() -> None:
        while not (folder / "profile.json").is_file():
            time.sleep(0.01)
        assert json.loads((folder / "profile.json").read_text())["steps"] == 3
        (folder / "profile").mkdir()
        (folder / "profile" / "steps-2-4-rank-0.json.gz").touch()
        (folder / "profile.json").unlink()

    stage = threading.Thread(target=be_the_stage)
    stage.start()
    code, out, hint = run_cli("profile", artifact.name, "--steps", "3")
    stage.join()
    assert (code, out) == (0, f"{folder / 'profile' / 'steps-2-4-rank-0.json.gz'}\n")
    assert "ui.perfetto.dev" in hint


def test_profile_of_a_stage_that_ends_before_says_so(furnace: Furnace, run_cli: RunCli) -> None:
    campaign = furnace.campaign()
    artifact = next(iter(campaign.lifecycle.of("pretrain")))
    attempt = furnace.begin(campaign, artifact, attempt=1)
    folder = campaign.store.folder(artifact)

    def end_the_stage() -> None:
        while not (folder / "profile.json").is_file():
            time.sleep(0.01)
        furnace.fail(attempt, {0: "over"})

    stage = threading.Thread(target=end_the_stage)
    stage.start()
    code, out, complaint = run_cli("profile", artifact.name)
    stage.join()
    assert (code, out) == (1, "") and complaint == "the stage ended before it could trace a step\n"
    assert not (folder / "profile.json").exists()
