"""The same graph with every rule a job of a real Slurm."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.cluster.slurm import missing_requirements, running_cluster
from tests.lifecycle.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_whole_lifecycle_on_slurm_every_stage_is_a_slurm_job(finished: Project, tmp_path: Path) -> None:
    if problem := missing_requirements():
        pytest.skip(f"no Slurm to test with: {problem}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # Slurm's sockets need a short path
    try:
        with running_cluster(folder) as cluster:
            project = Project.make(tmp_path, cluster.environment)
            done = project.snakemake()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [json.loads(path.read_text())["kind"] for path in project.store.glob("*/*/attempts/*/job.json")]
    assert kinds == ["slurm"] * 13
    assert (project.folder_of("pretrain/16384") / "curve.jsonl").read_bytes() == (
        finished.folder_of("pretrain/16384") / "curve.jsonl"
    ).read_bytes()
