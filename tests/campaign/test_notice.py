"""Word to the user when a campaign stops or is done."""

from pathlib import Path

import pytest

from athanor.campaign import notice
from athanor.campaign.campaign import Campaign
from athanor.campaign.notice import send_notice
from athanor.campaign.registry import register
from athanor.campaign.wiring import Wiring
from tests.campaign.conftest import Furnace


def campaign_that_runs(furnace: Furnace, command: str) -> Campaign:
    furnace.project.write("laptop", {"store": "store", "notify": command}, "sites")
    return furnace.campaign()


def test_notice_has_its_subject_and_text(furnace: Furnace, tmp_path: Path) -> None:
    campaign = campaign_that_runs(furnace, f'(echo "$ATHANOR_SUBJECT"; cat) > {tmp_path}/mail')
    assert send_notice(campaign, "stopped", "pretrain failed\n")
    assert (tmp_path / "mail").read_text() == "athanor base: stopped\npretrain failed\n"


def test_site_without_a_command_sends_nothing(furnace: Furnace) -> None:
    assert not send_notice(furnace.campaign(), "done", "")


def test_command_that_fails_is_told_and_ends_nothing(furnace: Furnace, capsys: pytest.CaptureFixture[str]) -> None:
    assert not send_notice(campaign_that_runs(furnace, "echo no such mailbox >&2; exit 67"), "done", "")
    assert "exit code 67: no such mailbox" in capsys.readouterr().err


def test_command_that_hangs_is_ended(
    furnace: Furnace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notice, "_SECONDS", 0.2)
    assert not send_notice(campaign_that_runs(furnace, "exec sleep 600"), "done", "")
    assert "took more than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("end", "subject", "words"), [("finish", "done", "every stage is done"), ("fail", "stopped", "fetch/prose failed")]
)
def test_driver_sends_a_notice_at_its_end(
    furnace: Furnace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, subject: str, words: str
) -> None:
    campaign = campaign_that_runs(furnace, f'(echo "$ATHANOR_SUBJECT"; cat) > {tmp_path}/mail')
    register(campaign)
    if end == "finish":
        furnace.finish_all(campaign)
    else:
        furnace.fail(furnace.begin(campaign, campaign.lifecycle["fetch/prose"]), {0: "no flour"})
    wired = Wiring(campaign)
    monkeypatch.setattr(wired, "_end", lambda: None)  # no writer and no watch were started
    getattr(wired, end)()
    said = (tmp_path / "mail").read_text()
    assert said.startswith(f"athanor base: {subject}\n") and words in said
