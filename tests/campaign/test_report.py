"""The campaign's page: written once for what there is, and never taken for that of other settings."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from athanor.campaign.campaign import Campaign
from athanor.campaign.registry import register
from athanor.campaign.report import is_current, write_report
from athanor.campaign.summary import where_to_look
from tests.campaign.conftest import Furnace


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Snakemake's, each of which writes a page."""
    found: list[str] = []

    def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        found.append(" ".join(command))
        Path(command[command.index("--report") + 1]).write_text("page")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return found


def finished(furnace: Furnace, *overrides: str) -> Campaign:
    campaign = Campaign.open("base", overrides=overrides)
    register(campaign)
    furnace.finish_all(campaign)
    return campaign


def shown(campaign: Campaign) -> str:
    return dict(where_to_look(campaign))["report"]


def test_page_is_written_once_and_again_when_something_was_made_anew(furnace: Furnace, calls: list[str]) -> None:
    campaign = finished(furnace)
    assert shown(campaign) == "athanor report --recipe base --site laptop"
    assert write_report(campaign) == write_report(campaign) == Path(shown(campaign)) and len(calls) == 1
    later = (campaign.folder / "report.html").stat().st_mtime + 5
    os.utime(campaign.store.manifest_path(campaign.lifecycle["export/1M"]), (later, later))
    assert not is_current(campaign) and write_report(campaign) and len(calls) == 2


def test_page_of_other_settings_is_not_pointed_to(furnace: Furnace, calls: list[str]) -> None:
    usual, other = finished(furnace), finished(furnace, "pretrain.lr=4e-4")
    assert other.folder == usual.folder
    write_report(other)
    assert is_current(other) and not is_current(usual), "though it is newer than all that the usual settings have made"
    write_report(usual)
    assert is_current(usual) and shown(other) == "athanor report --recipe base --site laptop --set pretrain.lr=4e-4"
    assert shown(replace(usual, name="again")).endswith("--campaign again")


def test_page_that_snakemake_did_not_write_is_none(furnace: Furnace, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = finished(furnace)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "no"))
    assert write_report(campaign) is None and not is_current(campaign)
    assert "report" not in dict(where_to_look(Campaign.open("base", overrides=["seed=7"])))
