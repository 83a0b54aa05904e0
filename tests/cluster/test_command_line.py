"""`python -m tests.cluster` as a person types it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .configuration import Layout
from .slurm import SlurmCluster, missing_requirements

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a cluster, with nothing of it left afterwards."""
    if problem := missing_requirements():
        pytest.skip(f"no Slurm to test with: {problem}")
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name) / "cluster"
        SlurmCluster(Layout(Path(name) / "cluster", ("node1",))).stop()


def say(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.cluster", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_cluster_is_started_used_broken_and_stopped_from_a_shell(folder: Path) -> None:
    started = say("start", folder, "--nodes", 1)
    assert started.returncode == 0, started.stderr
    assert f"site={folder}/site.yaml" in started.stdout and f"fault {folder}" in started.stdout
    shell = f'cd {PROJECT} && eval "$({sys.executable} -m tests.cluster env {folder})" && command -v sinfo && sinfo -h -N -o %N'
    used = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert used.stdout.split() == [f"{folder}/bin/sinfo", "node1", "node1"], used.stderr  # once a partition
    assert say("fault", folder, "node-death", "node1").returncode == 0
    assert "not running: slurmd.node1" in say("status", folder).stdout
    assert "a cluster runs in" in say("start", folder).stderr
    cluster = SlurmCluster(Layout(folder, ("node1",)))
    assert cluster.processes()
    assert say("stop", folder).returncode == 0
    assert cluster.processes() == [] and not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fault", "DIR", "earthquake"], ["earthquake", "node-death", "full-disk"]),
        (["status", "DIR"], ["no cluster in", "start"]),
        (["stop", "DIR"], ["no cluster in", "start"]),
        (["start", "DIR", "--nodes", "none"], ["none is no number of nodes"]),
    ],
)
def test_mistake_is_answered_in_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    answer = say(*(tmp_path if word == "DIR" else word for word in arguments))
    assert answer.returncode != 0 and len(answer.stderr.splitlines()) == 1
    assert all(word in answer.stderr for word in words), answer.stderr


def test_start_leaves_a_folder_of_something_else_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    assert say("start", tmp_path).returncode != 0
    assert (tmp_path / "mine").exists()
