"""Killed at a bad moment and started again: the same result as if nothing had happened."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.lifecycle.project import SITE, Project, wait_until

pytestmark = pytest.mark.slow

NVRX = "nvidia_resiliency_ext.fault_tolerance.launcher"
MILESTONES = ("pretrain/8192", "pretrain/16384")


def has_checkpoint(project: Project) -> bool:
    """Whether some pretraining has saved a checkpoint it could continue from."""
    return any(project.store.glob("pretrain/*/checkpoints/*/state.json"))


def same_training(one: Project, other: Project) -> None:
    """Both projects' milestones have the same curve, to the last bit, and the same validation losses."""
    for name in MILESTONES:
        for file in ("curve.jsonl", "validation.json"):
            assert (one.folder_of(name) / file).read_bytes() == (other.folder_of(name) / file).read_bytes(), (name, file)


@pytest.mark.parametrize("driver_too", [False, True])
def test_killed_ranks_continue_with_the_same_losses(finished: Project, tmp_path: Path, driver_too: bool) -> None:
    project = Project.make(tmp_path)
    driver = project.start_snakemake()
    wait_until(lambda: has_checkpoint(project), "a checkpoint")
    if driver_too:
        os.kill(driver.pid, signal.SIGKILL)
    assert project.kill_ranks("pretrain") == 2
    if not driver_too:
        assert driver.wait(timeout=600) == 0  # a driver that lives starts a killed stage again by itself
    driver.wait(timeout=300)
    again = project.snakemake()
    assert again.returncode == 0, again.stdout + again.stderr
    same_training(project, finished)
    assert project.athanor("verify", "--deep").returncode == 0


def test_failed_rank_starts_again_inside_its_job_where_the_site_has_nvrx_do_so(finished: Project, tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    resources = {**SITE["resources"], "pretrain": {"in_job_restarts": 2}}
    project.write("config/sites/laptop.yaml", {**SITE, "resources": resources})
    driver = project.start_snakemake()
    wait_until(lambda: has_checkpoint(project), "a checkpoint")
    ranks = [pid for pid in project.ranks("pretrain") if NVRX not in psutil.Process(pid).cmdline()]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert driver.wait(timeout=600) == 0, (project.folder / "driver.log").read_text()
    same_training(project, finished)
    first = project.folder_of(MILESTONES[0])
    assert [path.name for path in (first / "attempts").glob("[0-9]*")] == ["001"]
    assert sorted(path.stem for path in (first / "tracking").glob("*.jsonl")) == ["001", "002"]
    assert "will restart worker group" in (first / "attempts" / "001" / "rank-0.log").read_text()


def test_killed_driver_is_followed_by_one_that_adopts_its_jobs(finished: Project, tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    driver = project.start_snakemake()
    wait_until(lambda: has_checkpoint(project), "a checkpoint")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(timeout=300)
    again = project.snakemake()
    assert again.returncode == 0, again.stdout + again.stderr
    same_training(project, finished)
    assert set(project.computed().values()) == {1}


def test_two_drivers_on_one_store_compute_nothing_twice(tmp_path: Path) -> None:
    first = Project.make(tmp_path / "one")
    second = Project.make(tmp_path / "two")
    site = {"store": str(first.store), "heartbeat_seconds": "1s"}
    second.write("config/sites/laptop.yaml", site)
    drivers = [first.start_snakemake(), second.start_snakemake()]
    assert [driver.wait(timeout=900) for driver in drivers] == [0, 0]
    assert set(first.computed().values()) == {1}
