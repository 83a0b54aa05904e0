"""`athanor status`: the journal's records and the heartbeats, on one screen."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.campaign.campaign import Campaign
from athanor.campaign.registry import register
from athanor.campaign.state import State
from athanor.campaign.status import row_of, watch_status
from snakemake_executor_plugin_submitit.journal import JobKind, JobRecord, StartRecord, replace
from tests.campaign.conftest import Furnace

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def campaign(furnace: Furnace) -> Campaign:
    made = furnace.campaign()
    register(made)
    return made


def submit(furnace: Furnace, campaign: Campaign, name: str, starts: int = 1) -> Path:
    """A Slurm job of the artifact that was started `starts` times, a minute apart."""
    attempt = furnace.begin(campaign, campaign.lifecycle[name], attempt=2)
    replace(attempt, JobRecord(JobKind.SLURM, "4711", time=time.time() - 600))
    for number in range(starts):
        began = time.time() - 60 * (starts - number) - 5
        replace(attempt, StartRecord(number, ["node1", "node2"], time=began), f"start-{number:03d}.json")
    return attempt


def test_running_stage_says_its_job_nodes_attempt_progress_and_last_beat(
    furnace: Furnace, campaign: Campaign, run_cli: RunCli
) -> None:
    attempt, now = submit(furnace, campaign, "fetch/prose", starts=3), time.time()
    furnace.mark(attempt, time=now - 3, done=410_000, total=1_000_000, unit="tokens", began=now - 103, began_at=10_000)
    row = row_of(campaign, campaign.lifecycle["fetch/prose"], State.RUNNING)
    assert (row.job, row.hosts, row.attempt, row.since) == ("slurm job 4711", "node1,node2", "2.2", "1 min 5 s")
    assert row.says.startswith(" 41 %  410K of 1M tokens  4000 tokens/s  2 min 27 s left, last beat ")
    code, out, _ = run_cli("status")
    assert code == 0
    assert out.splitlines()[0] == "campaign base: 0 of 18 stages done, 17 waiting, 1 running"
    assert "slurm job 4711" in " ".join(out.split())


def test_running_stage_names_the_ranks_that_make_others_wait(furnace: Furnace, campaign: Campaign, run_cli: RunCli) -> None:
    submit(furnace, campaign, "fetch/prose")
    seconds = [{"rank": r, "node": f"node{r // 8}", "data_rank": r, "compute": 1.0, "data": 0.1} for r in range(32)]
    seconds[9]["compute"], seconds[12]["compute"], seconds[31]["data"] = 2.0, 1.5, 0.2  # the last is within what is noise
    told = {"schema_version": 1, "step": 10, "time": 0.0, "seconds": seconds}
    (campaign.store.folder(campaign.lifecycle["fetch/prose"]) / "ranks.json").write_text(json.dumps(told))
    _, out, _ = run_cli("status")
    assert "slow in fetch/prose: ranks 9, 12 on node1 2.1 s a step (median rank 1.1 s)" in " ".join(out.split())


def test_queued_stage_waits_since_its_submission(furnace: Furnace, campaign: Campaign) -> None:
    attempt = submit(furnace, campaign, "fetch/prose", starts=0)
    (attempt / "rank-0.log").unlink()
    row = row_of(campaign, campaign.lifecycle["fetch/prose"], State.QUEUED)
    assert (row.job, row.hosts, row.attempt, row.since, row.says) == ("slurm job 4711", "", "2", "10 min 0 s", "")


def test_failed_stage_says_why_and_what_to_type(furnace: Furnace, campaign: Campaign, run_cli: RunCli) -> None:
    furnace.fail(submit(furnace, campaign, "fetch/prose"), {1: "no flour [/bold]"})
    _, out, _ = run_cli("status")
    said = " ".join(out.split())
    assert "1 failed" in said and "no flour [/bold]" in said
    assert "look: athanor logs fetch/prose continue: type the same snakemake command again" in said


def test_nothing_at_work_says_what_comes_next(furnace: Furnace, campaign: Campaign, run_cli: RunCli) -> None:
    assert run_cli("status")[1].splitlines()[-1] == "nothing runs: snakemake makes what is missing"
    furnace.finish_all(campaign)
    assert run_cli("status")[1].splitlines() == ["campaign base: 18 of 18 stages done", "results: athanor summary"]


def test_next_milestone_is_the_first_of_pretraining_that_is_not_reached(
    furnace: Furnace, campaign: Campaign, run_cli: RunCli
) -> None:
    first, last = (artifact for artifact in campaign.lifecycle.of("pretrain") if artifact.instance != "shuffled")
    assert f"next milestone: {first.name}, waiting; 0 of 2 reached" in run_cli("status")[1]
    furnace.finish(campaign, first)
    attempt, now = submit(furnace, campaign, last.name), time.time()
    assert f"next milestone: {last.name}, running; 1 of 2 reached" in run_cli("status")[1]
    furnace.mark(attempt, time=now, done=410_000, total=1_000_000, unit="tokens", began=now - 100, began_at=10_000)
    assert f"next milestone: {last.name}, in 2 min 27 s, at " in run_cli("status")[1]
    days = 400_000_000
    furnace.mark(attempt, time=now, done=410_000, total=days, unit="tokens", began=now - 100, began_at=10_000)
    assert re.search(r"at \w{3} \d{4}-\d\d-\d\d \d\d:\d\d; 1 of 2 reached", " ".join(run_cli("status")[1].split()))
    furnace.finish(campaign, last)
    assert "milestone" not in run_cli("status")[1]


def test_watch_ends_when_every_stage_is_done(
    furnace: Furnace, campaign: Campaign, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(furnace, campaign, "fetch/prose")
    monkeypatch.setattr("athanor.campaign.status.time.sleep", lambda _seconds: furnace.finish_all(campaign))
    watch_status(campaign)
    assert "18 of 18 stages done" in capsys.readouterr().out
