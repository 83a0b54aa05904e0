"""`athanor doctor` and `athanor site init` on a real Slurm."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from athanor.cli import main
from athanor.cluster import probe
from tests.recipe.projects import Project, make_project

from ..snakemake_executor_plugin_submitit.drivers import wait_until
from .slurm import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# The small project pins versions of its own, which are not those of this environment: its stages need none of them here.
RECIPE = ["--recipe", "base"]


@pytest.fixture
def project(slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The small project in force, on a cluster with a partition for half an hour."""
    made = make_project(tmp_path / "project")
    monkeypatch.setenv("ATHANOR_PROJECT", str(made.root))
    monkeypatch.setenv("HOME", str(tmp_path))
    slurm_cluster.ask("scontrol", "create", "PartitionName=short", "Nodes=node1", "MaxTime=30", "State=UP")
    yield made
    slurm_cluster.ask("scontrol", "delete", "PartitionName=short")


def lines(said: str, level: str) -> list[str]:
    """The findings of one level."""
    return [line.removeprefix(level).strip() for line in said.splitlines() if line.startswith(f"{level} ")]


def test_three_faults_of_a_site_are_three_errors_in_one_report(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    resources = {
        "default": {"partition": "mian"},
        "evaluate": {"partition": "short", "runtime": "2h"},
        "pretrain": {"partition": "main", "gpus_per_node": 9},
    }
    project.write("faulty", {"resources": resources}, "sites")
    assert main(["doctor", "--site", "faulty", "--quick", *RECIPE]) == 1
    assert sorted(lines(capsys.readouterr().out, "error")) == [
        "evaluate: a walltime of 120 minutes is over the 30 that partition short allows; "
        "set resources.evaluate.runtime to at most 30min; long stages are requeued",
        "fetch and 6 more stages: partition 'mian' does not exist here; "
        "set resources.default.partition to one of main, preempt, short",
        "pretrain: asks for 9 GPUs a node, those of partition main have 8; set resources.pretrain.gpus_per_node to at most 8",
    ]  # fmt: skip


def test_drafted_site_is_accepted_and_its_nodes_are_looked_at(
    project: Project, slurm_cluster: SlurmCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Path(__file__).parents[2]
    for name in ("envs", "config/recipes"):  # the recipe and the pins of this environment
        (project.root / name).rename(project.root / f"{name}-small")
        (project.root / name).symlink_to(checkout / name)
    assert main(["site", "init", "drafted"]) == 0
    path = project.root / "config" / "sites" / "drafted.yaml"
    path.write_text(f"{path.read_text()}scratch: {project.root}/scratch/$SLURM_JOB_ID\nnetwork_interface: lo\nsecrets: secrets\n")
    (project.root / "secrets").write_text("HF_TOKEN=hush\n")
    (project.root / "secrets").chmod(0o600)
    assert main(["doctor", "--site", "drafted", "--wait", "10min"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert lines(said, "error") == [] and "hush" not in said
    assert any("(pretrain" in line and "sees the store" in line for line in lines(said, "ok")), said
    for words in ("imports what its stages need", "has network interface lo", "munge works"):
        assert any(words in line for line in lines(said, "ok")), said
    assert any("reward.pretrain.parallel.ranks of the recipe" in line for line in lines(said, "warning")), said
    assert any(f"scratch {project.root}/scratch/" in line for line in lines(said, "ok")), said
    assert not list(project.root.glob(".athanor-doctor-*"))
    assert "athanor-doctor" not in slurm_cluster.ask("squeue", "-h", "-o", "%j")


def test_store_that_nodes_do_not_see_is_an_error(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probe, "_LAST_LOOK_SECONDS", 1.0)
    (tmp_path / "hidden").mkdir()
    # Mounted after the nodes began, in whose namespaces of mounts it does not appear.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2G", "hidden", tmp_path / "hidden"], check=True)
    try:
        project.write("hidden", {"store": f"{tmp_path}/hidden", "resources": {"default": {"partition": "main"}}}, "sites")
        assert main(["doctor", "--site", "hidden", *RECIPE]) == 1
        errors = lines(capsys.readouterr().out, "error")
    finally:
        subprocess.run(["umount", tmp_path / "hidden"], check=True)
    (where,) = errors
    assert where.endswith(f"does not see {tmp_path}/hidden; set store to a folder that every node mounts")


def test_interrupted_doctor_leaves_no_job_and_no_file(project: Project, slurm_cluster: SlurmCluster) -> None:
    project.write("held", {"resources": {"default": {"partition": "main", "extra": "--hold"}}}, "sites")
    doctor = subprocess.Popen(
        [sys.executable, "-m", "athanor", "doctor", "--site", "held", *RECIPE],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: "athanor-doctor" in slurm_cluster.ask("squeue", "-h", "-o", "%j"), "the small job")
    doctor.send_signal(signal.SIGINT)
    assert doctor.wait(60) == 130
    assert "athanor-doctor" not in slurm_cluster.ask("squeue", "-h", "-o", "%j")
    assert not list(project.root.glob(".athanor-doctor-*"))
