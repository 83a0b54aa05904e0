"""What the driver's screen says while stages wait, run, fail and finish."""

import json
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from athanor.campaign.campaign import Campaign
from athanor.campaign.registry import register
from athanor.campaign.state import Progress, State, failures_of, latest_attempt, progress_of, state_of
from athanor.campaign.watch import LOG, Watch, describe, print_failures
from tests.campaign.conftest import Furnace


class Screen:
    """A watch whose looks the test asks for, one by one."""

    def __init__(self, campaign: Campaign, terminal: bool = False) -> None:
        self.out, self.log = StringIO(), StringIO()
        self.watch = Watch(campaign, Console(file=self.out, force_terminal=terminal, width=200, highlight=False))
        self._read = 0

    def look(self) -> list[str]:
        """The lines printed since the last look, without their time of day."""
        self.running = [text.plain for text in self.watch._tick(self.log)]
        said = self.out.getvalue()[self._read :]
        self._read += len(said)
        return [line[9:] for line in said.splitlines()]


@pytest.fixture
def campaign(furnace: Furnace) -> Campaign:
    made = furnace.campaign()
    register(made)
    return made


def test_states_follow_the_folder(furnace: Furnace, campaign: Campaign) -> None:
    artifact = campaign.lifecycle["fetch/prose"]
    folder = campaign.store.folder(artifact)
    assert state_of(folder) is State.WAITING
    (folder / "attempts" / "001").mkdir(parents=True)
    assert state_of(folder) is State.QUEUED
    (folder / "attempts" / "001" / "rank-0.log").touch()
    assert state_of(folder) is State.RUNNING
    furnace.fail(folder / "attempts" / "001", {0: "no flour"})
    assert state_of(folder) is State.FAILED
    furnace.begin(campaign, artifact, attempt=2)
    assert state_of(folder) is State.RUNNING
    furnace.finish(campaign, artifact)
    assert state_of(folder) is State.DONE


def test_attempt_that_succeeded_without_a_manifest_waits_for_it(furnace: Furnace, campaign: Campaign) -> None:
    attempt = furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    (attempt / "end.json").write_text('{"outcome": "success"}')
    assert state_of(attempt.parents[1]) is State.WAITING


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_half_written_records_count_as_not_there(furnace: Furnace, campaign: Campaign, content: str) -> None:
    attempt = furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    for name in ("end.json", "heartbeat-node.json", "exit-0.json"):
        (attempt / name).write_text(content)
    folder = attempt.parents[1]
    assert state_of(folder) is State.RUNNING
    assert progress_of(folder) is None
    assert list(failures_of(folder)) == []


def test_newest_attempt_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    assert latest_attempt(tmp_path) is None
    for name in ("001", "010", "002", ".claim", "decision-001-0.json"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert latest_attempt(tmp_path) == tmp_path / "attempts" / "010"


def test_progress_is_that_of_the_newest_mark(furnace: Furnace, campaign: Campaign) -> None:
    attempt, now = furnace.begin(campaign, campaign.lifecycle["fetch/prose"]), time.time()
    furnace.mark(attempt, "old", time=now - 60, done=1, total=10, unit="steps", began=now - 70, began_at=0)
    furnace.mark(attempt, "new", time=now, done=300, total=900, unit="steps", began=now - 100, began_at=100)
    progress = progress_of(attempt.parents[1])
    assert progress is not None
    assert (progress.done, progress.total, progress.unit) == (300, 900, "steps")
    assert progress.rate == pytest.approx(2.0)  # since this attempt began, not since the first
    assert progress.seconds_left == pytest.approx(300.0)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(410_000, 1_000_000, "tokens", 4214.0, 0), " 41 %  410K of 1M tokens  4214 tokens/s  2 min 20 s left"),
        (Progress(0, 10, "shards", 0.0, 0), "  0 %  0 of 10 shards"),
        (Progress(10, 10, "shards", 0.5, 0), "100 %  10 of 10 shards  0.5 shards/s  0 s left"),
        (Progress(1_234_567, 5 * 10**12, "tokens", 9e4, 0), "  0 %  1.23M of 5T tokens  90K tokens/s  15432 h 5 min left"),
        (Progress(11, 10, "steps", 1.0, 0), "100 %  11 of 10 steps  1.0 steps/s  0 s left"),
        (Progress(4096, 0, "records", 512.0, 0), "4096 records  512 records/s"),
    ],
)  # fmt: skip
def test_progress_reads_as(progress: Progress, text: str) -> None:
    assert describe(progress) == text


def test_lines_say_what_changed_and_only_once(furnace: Furnace, campaign: Campaign) -> None:
    screen = Screen(campaign)
    assert screen.look() == []
    assert screen.running == ["0 of 18 stages done"]
    artifact = campaign.lifecycle["fetch/prose"]
    attempt, now = furnace.begin(campaign, artifact), time.time()
    assert screen.look() == ["fetch/prose              started"]
    furnace.mark(attempt, time=now, done=5, total=10, unit="files", began=now - 5, began_at=0)
    assert screen.look() == ["fetch/prose               50 %  5 of 10 files  1.0 files/s  5 s left"]
    assert screen.look() == []  # the same line again only after a while
    assert screen.running[0] == "fetch/prose               50 %  5 of 10 files  1.0 files/s  5 s left"
    furnace.finish(campaign, artifact, loss=1.25)
    assert screen.look() == ["fetch/prose              done 1/18  2.5 s  loss 1.25"]
    assert screen.running == ["1 of 18 stages done"]
    assert screen.look() == []
    assert [line.split(" ", 2)[2] for line in screen.log.getvalue().splitlines()][-1].startswith("fetch/prose")


def test_failure_says_its_first_cause(furnace: Furnace, campaign: Campaign) -> None:
    screen = Screen(campaign)
    attempt = furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    screen.look()
    furnace.fail(attempt, {3: "no flour", 0: "connection closed by peer"})
    assert screen.look() == ["fetch/prose              FAILED: no flour"]


def test_failure_of_an_earlier_start_is_not_told_again(furnace: Furnace, campaign: Campaign) -> None:
    artifact = campaign.lifecycle["fetch/prose"]
    furnace.fail(furnace.begin(campaign, artifact), {0: "no flour"})
    screen = Screen(campaign)
    assert screen.look() == []
    second = furnace.begin(campaign, artifact, attempt=2)
    assert screen.look() == ["fetch/prose              started"]
    furnace.fail(second, {0: "no water"})
    assert screen.look() == ["fetch/prose              FAILED: no water"]


def test_terminal_prints_ends_and_keeps_running_lines_to_itself(furnace: Furnace, campaign: Campaign) -> None:
    screen = Screen(campaign, terminal=True)
    furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    assert screen.look() == []
    assert screen.running[0].startswith("fetch/prose              running ")
    assert "started" in screen.log.getvalue()
    furnace.finish(campaign, campaign.lifecycle["fetch/prose"])
    assert len(screen.look()) == 1


def test_markup_in_a_cause_is_printed_as_it_is(furnace: Furnace, campaign: Campaign) -> None:
    screen = Screen(campaign)
    attempt = furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    screen.look()
    furnace.fail(attempt, {0: "shape [4, 2] and [/bold] differ"})
    assert screen.look() == ["fetch/prose              FAILED: shape [4, 2] and [/bold] differ"]


def test_thread_says_the_last_changes_before_it_ends(furnace: Furnace, campaign: Campaign) -> None:
    out = StringIO()
    watch = Watch(campaign, Console(file=out, width=200))
    watch.start()
    furnace.finish_all(campaign)
    watch.stop()
    assert out.getvalue().startswith("campaign base: 18 stages to make, store ")
    assert "done 18/18" in out.getvalue()
    assert "done 18/18" in (campaign.folder / LOG).read_text()


def test_failures_are_two_lines_with_what_to_type(furnace: Furnace, campaign: Campaign) -> None:
    furnace.fail(furnace.begin(campaign, campaign.lifecycle["fetch/prose"]), {0: "no flour"})
    furnace.fail(furnace.begin(campaign, campaign.lifecycle["initialize/model"]), {}, exit_code=-9, cause="signal")
    out = StringIO()
    print_failures(campaign, out)
    assert out.getvalue().splitlines() == [
        "fetch/prose failed: no flour",
        "  look: athanor logs fetch/prose    continue: type the same snakemake command again",
        "initialize/model failed: rank 0 ended with exit code -9 (signal): last words",
        "  look: athanor logs initialize/model    continue: type the same snakemake command again",
    ]


def test_heartbeat_of_a_stage_is_what_the_screen_reads(
    furnace: Furnace, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    from athanor.artifacts.run import Heartbeat

    attempt = furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    heartbeat = Heartbeat(attempt, every_seconds=10)
    for second, done in ((0, 0), (5, 50), (12, 120), (13, 130)):
        now[0] = 1000.0 + second
        heartbeat.beat(done, 1000, "steps")
    progress = progress_of(attempt.parents[1])
    assert progress == Progress(120, 1000, "steps", 10.0, 1.0)  # 50 and 130 came too soon after another mark
    now[0] += 1
    heartbeat.beat(1000, 1000, "steps")
    assert json.loads(next(attempt.glob("heartbeat-*.json")).read_text())["done"] == 1000
