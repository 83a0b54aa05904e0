"""Garbage: what no campaign refers to, and nothing else; out of the way first, deleted later."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.artifacts.lease import LEASE, SILENCE_SECONDS, Holder, Lease
from athanor.campaign.campaign import Campaign
from athanor.campaign.collection import TRASH, empty_trash, move_to_trash, unreferenced
from athanor.campaign.registry import register
from tests.campaign.conftest import Furnace

DAY = 86400.0


@pytest.fixture
def edited(furnace: Furnace) -> tuple[Campaign, Campaign]:
    """A campaign that ran, and ran again after an edit."""
    before, after = furnace.campaign(), furnace.campaign("pretrain.lr=0.001")
    for campaign in (before, after):
        register(campaign)
        furnace.finish_all(campaign)
    return before, after


def garbage(campaign: Campaign, *, superseded: bool = False) -> set[str]:
    root = campaign.store.root
    return {item.folder.relative_to(root).as_posix() for item in unreferenced(campaign.store, superseded=superseded)}


def forgotten(furnace: Furnace, override: str = "seed=9") -> Campaign:
    """Artifacts of a campaign that was never registered."""
    campaign = furnace.campaign(override)
    furnace.finish_all(campaign)
    return campaign


def test_what_any_start_of_a_campaign_names_is_kept(edited: tuple[Campaign, Campaign]) -> None:
    assert garbage(edited[0]) == set()


def test_what_no_campaign_names_is_garbage(furnace: Furnace, edited: tuple[Campaign, Campaign]) -> None:
    lost = forgotten(furnace)
    known = {artifact.path for campaign in edited for artifact in campaign.lifecycle}
    assert garbage(lost) == {artifact.path for artifact in lost.lifecycle} - known


def test_superseded_results_are_garbage_on_request(edited: tuple[Campaign, Campaign]) -> None:
    before, after = ({artifact.path for artifact in campaign.lifecycle} for campaign in edited)
    assert garbage(edited[0], superseded=True) == before - after


def test_another_campaign_keeps_what_this_one_superseded(furnace: Furnace, edited: tuple[Campaign, Campaign]) -> None:
    register(furnace.campaign(name="second"))
    assert garbage(edited[0], superseded=True) == set()


def test_running_job_keeps_its_folder_and_what_it_reads(furnace: Furnace, edited: tuple[Campaign, Campaign]) -> None:
    lost = forgotten(furnace, "tokenizer.min_frequency=3")
    all_of_it = garbage(lost)
    busy = lost.lifecycle["tokenize/prose-0"]
    lease = Lease(lost.store.folder(busy))
    assert lease.try_acquire()
    inputs = {upstream.path for upstream in busy.upstreams.values()}
    assert all_of_it - garbage(lost) == {busy.path, *inputs} & all_of_it
    lease.release()
    assert garbage(lost) == all_of_it


@pytest.mark.parametrize(
    ("host", "silent", "kept"),
    [
        (os.uname().nodename, 0.0, False),  # this machine knows that the process is gone
        ("another-host", 0.0, True),
        ("another-host", SILENCE_SECONDS + 5, False),
    ],
)
def test_lease_of_a_dead_worker_keeps_nothing(furnace: Furnace, host: str, silent: float, kept: bool) -> None:
    lost = forgotten(furnace)
    folder = lost.store.folder(lost.lifecycle["initialize/model"])
    (folder / LEASE).write_text(json.dumps(dataclasses.asdict(Holder(host, 2**22 + 1, 1, "t"))))
    then = time.time() - silent
    os.utime(folder / LEASE, (then, then))
    assert (lost.lifecycle["initialize/model"].path not in garbage(lost)) is kept


def test_unfinished_folders_count_and_sizes_add_up(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    folder = campaign.store.folder(campaign.lifecycle["fetch/prose"])
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "x").write_bytes(b"\0" * 1234)
    (folder / "link").symlink_to(folder / "deep" / "x")
    (item,) = unreferenced(campaign.store)
    assert (item.folder, item.bytes, item.owner) == (folder, 1234, os.getuid())


def test_trash_holds_everything_and_gives_it_back(furnace: Furnace) -> None:
    lost = forgotten(furnace)
    moved = list(move_to_trash(lost.store, unreferenced(lost.store)))
    assert len(lost.missing()) == len(list(lost.lifecycle)) == len(moved)
    day = next((lost.store.root / TRASH).iterdir())
    for path in moved:
        back = lost.store.root / path.relative_to(day)
        path.rename(back)
    assert lost.missing() == []


def test_folders_of_other_owners_are_left_alone(furnace: Furnace) -> None:
    lost = forgotten(furnace)
    theirs = [dataclasses.replace(item, owner=os.getuid() + 1) for item in unreferenced(lost.store)]
    assert list(move_to_trash(lost.store, theirs)) == []
    assert lost.missing() == []


@pytest.mark.parametrize(("age", "gone"), [(13.0, False), (15.0, True)])
def test_trash_is_emptied_only_after_the_grace_period(furnace: Furnace, age: float, gone: bool) -> None:
    lost = forgotten(furnace)
    list(move_to_trash(lost.store, unreferenced(lost.store)))
    (day,) = (lost.store.root / TRASH).iterdir()
    then = time.time() - age * DAY
    os.utime(day, (then, then))
    assert empty_trash(lost.store, grace_days=14) == ([day] if gone else [])
    assert day.exists() is not gone


def test_command_touches_nothing_unless_asked(
    furnace: Furnace, run_cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    register(furnace.campaign())
    lost = forgotten(furnace, "evaluate.limit=5")
    code, out, _ = run_cli("gc")
    assert (code, lost.missing()) == (0, [])
    *listed, total, hint = out.splitlines()
    assert len(listed) == 3
    assert total.startswith("3 folders, ")
    assert hint == "nothing was touched; --trash moves them out of the way"
    code, out, _ = run_cli("gc", "--trash")
    assert out.splitlines()[-1] == f"moved 3 to {lost.store.root / TRASH}"
    assert [artifact.stage for artifact in lost.missing()] == ["evaluate", "evaluate", "report"]
    assert run_cli("gc", "--empty")[1].splitlines()[-1] == "deleted 0 folders older than 14 days"
    assert run_cli("gc", "--empty", "--grace-days", "0")[1].splitlines()[-1] == "deleted 1 folders older than 0 days"
