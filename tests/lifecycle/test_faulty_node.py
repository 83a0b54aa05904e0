"""A node that computes wrongly, in a campaign of a real Slurm: found, named, left out, and without a trace in the result."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.journal import Action, Attempt, JobFolder
from tests.cluster.fixtures import temporary_cluster
from tests.lifecycle.project import CHECKOUT, SITE, Project

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

FAULTY, MILESTONES = "node2", ("pretrain/8192", "pretrain/16384")
AFTER = 12  # micro-batches of a rank, two a step: the checkpoint of step 4 is there, that of step 8 not yet
# Python runs it before anything else; what it breaks is the arithmetic of training ranks on one node.
ON_THE_NODE = f"""
import os, sys
if os.environ.get("SLURMD_NODENAME") == "{FAULTY}" and "pretrain" in sys.orig_argv and "RANK" in os.environ:
    from tests.training.faults import stick_bits
    stick_bits("1.self_attention.linear_proj", mask=0x7F800000, after={AFTER})
"""


def to_be_trained(finished: Project, folder: Path) -> Project:
    """A copy whose milestones are yet to be made, by jobs of two nodes with a rank each."""
    project = finished.copy(folder)
    shutil.rmtree(project.store / "pretrain")
    resources = {"default": {"cpus_per_task": 1, "memory": "2GB"}}
    project.write("config/sites/laptop.yaml", {**SITE, "ranks_per_node": 1, "resources": resources})
    return project


def attempts_of(project: Project, name: str) -> list[Attempt]:
    return JobFolder(project.folder_of(name)).attempts()


def test_node_that_computes_wrongly_is_named_and_training_ends_without_it(finished: Project, tmp_path: Path) -> None:
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "sitecustomize.py").write_text(ON_THE_NODE)
    paths = [str(tmp_path / "faulty"), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    with temporary_cluster(nodes=("node1", FAULTY, "node3")) as cluster:
        environment = {**cluster.environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        project = replace(to_be_trained(finished, tmp_path / "project"), environment=environment)
        last = finished.folder_of(MILESTONES[1]).relative_to(finished.store)
        # Steps are quick here, and on a busy machine a save in the background may not be there by the seventh.
        words = ("--config", "set=[pretrain.checkpoint.asynchronous=false]")
        done = project.snakemake(str(project.store / last / "manifest.json"), *words)
    assert done.returncode == 0, done.stdout + done.stderr

    first, second = attempts_of(project, MILESTONES[0])
    [start] = first.starts()
    rank = start.hosts.index(FAULTY)
    judgement = first.judgement()
    assert judgement is not None
    assert (judgement.cause, judgement.action, judgement.host) == ("hardware fault", Action.ELSEWHERE, FAULTY)
    [fault] = [json.loads(line) for line in (first.folder.parents[1] / "faults.jsonl").read_text().splitlines()]
    assert (fault["step"], fault["origin"], fault["ranks"], fault["nodes"]) == (7, "rank", [rank], [FAULTY])
    said = {json.loads(path.read_text())["cause"] for path in first.folder.glob("exit-*.json")}
    assert len(said) == 1 and f"rank {rank} on {FAULTY}" in said.pop(), "every rank names the one that is at fault"

    assert [start.hosts for start in second.starts()] == [["node1", "node3"]]
    assert f"at {4 * 512} tokens" in second.rank_log(0).read_text(), "goes on from the checkpoint before"
    [later] = attempts_of(project, MILESTONES[1])
    assert FAULTY not in later.starts()[0].hosts
    told = project.athanor("nodes").stdout
    assert told.startswith(FAULTY) and "hardware fault" in told and len(told.splitlines()) == 1

    for name in MILESTONES:
        for file in ("curve.jsonl", "validation.json"):
            same = (project.folder_of(name) / file).read_bytes() == (finished.folder_of(name) / file).read_bytes()
            assert same, f"{name}/{file} is not that of the undisturbed campaign"
