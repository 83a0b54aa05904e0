"""Folders stay bounded: driver logs while a campaign runs, attempts when it is done."""

from pathlib import Path

from athanor.campaign.housekeeping import KEPT_DRIVER_LOGS, drop_old_driver_logs, seal
from snakemake_executor_plugin_submitit.journal import Attempt, End, Outcome
from tests.campaign.conftest import Furnace


def submitted(attempt: Path, shares: Path | None = None) -> Path:
    """Give the attempt its submitit folder, or that of an array's first."""
    folder = attempt / "submitit"
    if shares is None:
        folder.mkdir()
    else:
        folder.symlink_to(shares)
    return folder


def test_only_the_newest_driver_logs_are_kept(tmp_path: Path) -> None:
    names = [f"2026-11-26T{number:06d}.000001.snakemake.log" for number in range(KEPT_DRIVER_LOGS + 3)]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "mine.txt").touch()
    drop_old_driver_logs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names[3:], "mine.txt"]
    drop_old_driver_logs(tmp_path / "none")


def test_seal_trims_what_is_done_and_leaves_what_is_not(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    fetch, tokenizer = campaign.lifecycle["fetch/prose"], campaign.lifecycle["tokenizer/bpe"]
    done, running = furnace.begin(campaign, fetch), furnace.begin(campaign, tokenizer)
    for attempt in (done, running):
        submitted(attempt)
        Attempt(attempt).finish(End(Outcome.SUCCESS))
    furnace.finish(campaign, fetch)
    seal(campaign.store, campaign.lifecycle)
    assert not (done / "submitit").exists() and (done / "rank-0.log").exists()
    assert (running / "submitit").exists()


def test_seal_leaves_the_files_of_an_array_that_another_campaign_waits_for(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    fetch = campaign.lifecycle["fetch/prose"]
    leader = furnace.begin(campaign, fetch)
    shared = submitted(leader)
    Attempt(leader).finish(End(Outcome.SUCCESS))
    furnace.finish(campaign, fetch)
    waiting = campaign.store.root / "fetch" / "0123456789abcdef" / "attempts" / "001"
    waiting.mkdir(parents=True)
    submitted(waiting, shared)
    seal(campaign.store, [fetch])
    assert shared.exists()
    Attempt(waiting).finish(End(Outcome.SUCCESS))
    seal(campaign.store, [fetch])
    assert not shared.exists()
