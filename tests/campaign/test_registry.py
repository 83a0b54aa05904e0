"""What a campaign remembers: its starts, its links by name, the plans of its stages."""

import os
import shutil
from pathlib import Path

import pytest

from athanor.campaign.registry import PLAN, RUNS, campaigns, register, starts
from athanor.recipe.loading import load_resolved
from tests.campaign.conftest import Furnace


def test_start_records_what_was_asked_for_and_what_it_means(furnace: Furnace) -> None:
    campaign = furnace.campaign("pretrain.lr=1e-3")
    register(campaign)
    (start,) = starts(campaign.folder)
    assert (start.recipe, start.site, start.overrides) == ("base", "laptop", ("pretrain.lr=1e-3",))
    assert start.artifacts == {artifact.name: artifact.path for artifact in campaign.lifecycle}
    assert start.project == str(furnace.project.root)


def test_every_missing_artifact_gets_the_recipe_it_is_started_with(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    done, *missing = campaign.lifecycle
    furnace.finish(campaign, done)
    register(campaign)
    assert not (campaign.store.folder(done) / PLAN).exists()
    for artifact in missing:
        assert load_resolved(campaign.store.folder(artifact) / PLAN) == campaign.recipe


def test_links_by_name_still_lead_there_when_the_store_was_moved(furnace: Furnace, tmp_path: Path) -> None:
    campaign = furnace.campaign()
    furnace.finish_all(campaign)
    register(campaign)
    shutil.move(campaign.store.root, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / campaign.folder.relative_to(campaign.store.root)
    for artifact in campaign.lifecycle:
        assert (moved / artifact.stage / artifact.instance / "bytes").read_text() == artifact.fingerprint


def test_links_follow_the_recipe(furnace: Furnace) -> None:
    before, after = furnace.campaign(), furnace.campaign("pretrain.lr=1e-3")
    for campaign in (before, after, before):
        register(campaign)
        for artifact in campaign.lifecycle:
            link = campaign.folder / artifact.stage / artifact.instance
            assert Path(os.path.realpath(link)) == campaign.store.folder(artifact).resolve()
    assert not [path for path in before.folder.rglob(".*") if path.is_symlink()]


def test_history_keeps_every_start_in_order(furnace: Furnace) -> None:
    for rate in ("1e-3", "2e-3", "3e-3"):
        register(furnace.campaign(f"pretrain.lr={rate}"))
    history = starts(furnace.campaign().folder)
    assert [start.overrides[0] for start in history] == ["pretrain.lr=1e-3", "pretrain.lr=2e-3", "pretrain.lr=3e-3"]
    assert [start.time for start in history] == sorted(start.time for start in history)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_torn_line_loses_no_other_start(furnace: Furnace, kept: float) -> None:
    register(furnace.campaign("seed=1"))
    runs = furnace.campaign().folder / RUNS
    whole = runs.read_text()
    runs.write_text(whole + whole[: int(len(whole) * kept)])  # a driver was killed while it wrote
    register(furnace.campaign("seed=3"))
    assert [start.overrides for start in starts(runs.parent)] == [("seed=1",), ("seed=3",)]


def test_campaign_without_a_start_has_no_history(furnace: Furnace) -> None:
    assert starts(furnace.campaign().folder) == []


def test_campaigns_of_all_owners_are_found(furnace: Furnace) -> None:
    register(furnace.campaign())
    register(furnace.campaign(name="second"))
    mine = furnace.campaign().folder
    shutil.copytree(mine, mine.parents[1] / "somebody" / "else", symlinks=True)
    found = [path.relative_to(mine.parents[1]).as_posix() for path in campaigns(furnace.campaign().store.root)]
    assert sorted(found) == sorted([f"{mine.parent.name}/base", f"{mine.parent.name}/second", "somebody/else"])
