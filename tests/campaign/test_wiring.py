"""What the rules get: paths, inputs, commands and resources."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.utils import QuotedFormatter

from athanor.campaign.wiring import Wiring
from athanor.cli import DEFAULT_RECIPE
from tests.campaign.conftest import Furnace
from tests.recipe.projects import base, put
from tests.recipe.schema_walk import with_entries


def wiring(**config: Any) -> Wiring:
    return Wiring.from_config(config, "base")


def chosen(wiring: Wiring, name: str) -> SimpleNamespace:
    """Snakemake's wildcards for an artifact."""
    return SimpleNamespace(fingerprint=wiring.campaign.lifecycle[name].fingerprint)


def test_defaults_are_the_recipe_of_the_snakefile_and_the_laptop(furnace: Furnace) -> None:
    campaign = wiring().campaign
    assert (campaign.name, campaign.recipe.name, campaign.site.name) == ("base", "base", "laptop")
    assert campaign.store.root == furnace.project.root / "store"


def test_config_chooses_recipe_site_overrides_and_name(furnace: Furnace, monkeypatch: pytest.MonkeyPatch) -> None:
    furnace.project.write("other", {"extends": "base"})
    furnace.project.write("cluster", {"store": "/project/x"}, "sites")
    campaign = wiring(recipe="other", site="cluster", set=["seed=3"], campaign="trial").campaign
    assert (campaign.name, campaign.recipe.name, campaign.site.name, campaign.recipe.seed) == ("trial", "other", "cluster", 3)
    assert str(campaign.store.root) == "/project/x"
    monkeypatch.setenv("ATHANOR_SITE", "cluster")
    assert wiring().campaign.site.name == "cluster"
    assert wiring(site="laptop").campaign.site.name == "laptop"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lr": 1}, "--config lr=…: there is no such setting; a recipe's key is changed by set=key=value"),
        ({"recipe": "bsae"}, "did you mean base?"),
        ({"site": "labtop"}, "did you mean laptop?"),
        ({"set": "seed=2 pretrain.lr=1"}, "white space does not separate overrides"),
        ({"set": ["pretrain.lr=7", "seeed=2"]}, "recipe base: 2 problems; nothing was started"),
    ],
)
def test_bad_config_ends_the_driver_with_the_report(furnace: Furnace, config: dict[str, Any], said: str) -> None:
    with pytest.raises(SystemExit) as caught:
        wiring(**config)
    assert said in str(caught.value)


def test_targets_are_the_manifests_of_all_artifacts(furnace: Furnace) -> None:
    wired = wiring()
    root = furnace.project.root / "store"
    assert wired.targets() == [f"{root}/{artifact.path}/manifest.json" for artifact in wired.campaign.lifecycle]


def test_rule_of_a_stage_finds_the_inputs_of_each_artifact(furnace: Furnace) -> None:
    wired = wiring()
    for artifact in wired.campaign.lifecycle:
        found = wired.inputs(artifact.stage)(SimpleNamespace(fingerprint=artifact.fingerprint))
        assert found == [str(wired.campaign.store.manifest_path(upstream)) for upstream in artifact.upstreams.values()]


def test_what_the_longest_way_waits_for_goes_first(furnace: Furnace) -> None:
    wired = wiring()

    def priority(name: str) -> int:
        artifact = wired.campaign.lifecycle[name]
        return wired.priority(artifact.stage)(SimpleNamespace(fingerprint=artifact.fingerprint))

    assert priority("report/campaign") == 0
    assert priority("evaluate/1M") == priority("pretrain/shuffled") == priority("baselines/ngram") == 1
    assert priority("pretrain/400K") == priority("pretrain/1M") + 1 == priority("export/1M") + 2 == priority("evaluate/1M") + 3
    assert priority("fetch/prose") == max(map(priority, (artifact.name for artifact in wired.campaign.lifecycle)))


def test_output_pattern_matches_the_target(furnace: Furnace) -> None:
    wired = wiring()
    name = "export/1M"
    assert wired.manifest("export").format(fingerprint=chosen(wired, name).fingerprint) in wired.targets()


def command(wired: Wiring, name: str) -> str:
    """The command as Snakemake would format it."""
    stage = name.partition("/")[0]
    formatted: str = QuotedFormatter().format(
        wired.command(stage), wildcards=chosen(wired, name), output=SimpleNamespace(manifest="M")
    )
    return formatted


def test_command_names_the_plan_of_the_artifact_and_nothing_of_the_campaign(furnace: Furnace) -> None:
    one, other = wiring(), wiring(campaign="second", set=["evaluate.limit=5"])
    folder = furnace.project.root / "store" / one.campaign.lifecycle["pretrain/1M"].path
    expected = f"{sys.executable} -m athanor stage pretrain --recipe {folder}/plan.yaml --site laptop --manifest M"
    assert command(one, "pretrain/1M") == command(other, "pretrain/1M") == expected


def test_site_puts_its_prefix_and_interpreter_before_the_command(furnace: Furnace) -> None:
    prefix = "apptainer exec --env X=${Y} gpu.sif"
    escaped = prefix.replace("${", "\\${")  # a bare ${Y} repeats a key of the file
    resources = {"default": {"python": "/opt/venv/bin/python"}, "pretrain": {"launch_prefix": escaped}}
    furnace.project.write("cluster", {"resources": resources}, "sites")
    wired = wiring(site="cluster")
    assert command(wired, "pretrain/1M").startswith(f"{prefix} /opt/venv/bin/python -m athanor stage pretrain ")
    assert command(wired, "fetch/prose").startswith("/opt/venv/bin/python -m athanor stage fetch ")


def test_restarts_inside_a_job_make_one_task_a_node_that_starts_its_ranks(furnace: Furnace) -> None:
    recipe = {"extends": "base", "pretrain": {"parallel": {"ranks": 16}}}
    furnace.project.write("wide", recipe)
    stages = {"pretrain": {"in_job_restarts": 3, "cpus_per_task": 12, "gpus_per_node": 8}}
    furnace.project.write("cluster", {"ranks_per_node": 8, "resources": stages}, "sites")
    wired = wiring(recipe="wide", site="cluster")
    asked = wired.resources("pretrain")
    assert (asked["nodes"], asked["tasks"], asked["cpus_per_task"], asked["gpus_per_node"]) == (2, 2, 96, 8)
    assert command(wired, "pretrain/1M").startswith(
        f"{sys.executable} -m nvidia_resiliency_ext.fault_tolerance.launcher --nnodes 2 --nproc-per-node 8 --max-restarts 3 "
        "--rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR:$MASTER_PORT --term-timeout 3600 -m athanor stage pretrain --recipe "
    )
    assert "nvidia" not in command(wired, "fetch/prose")


def test_restarts_inside_a_job_want_their_package_before_anything_is_submitted(
    furnace: Furnace, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnace.project.write("cluster", {"resources": {"pretrain": {"in_job_restarts": 3}}}, "sites")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tested = re.search(r"nvidia-resiliency-ext==[0-9.]+", Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    assert tested is not None
    with pytest.raises(SystemExit, match=rf"site cluster: resources\.pretrain\.in_job_restarts: .* pip install {tested[0]}, or"):
        wiring(site="cluster").start()


def test_restarts_inside_a_job_want_as_many_ranks_on_every_node(furnace: Furnace) -> None:
    furnace.project.write("wide", {"extends": "base", "pretrain": {"parallel": {"ranks": 16}}})
    furnace.project.write("cluster", {"ranks_per_node": 6, "resources": {"pretrain": {"in_job_restarts": 3}}}, "sites")
    with pytest.raises(SystemExit, match="16 ranks do not spread evenly over 3 nodes; change ranks_per_node"):
        wiring(recipe="wide", site="cluster").start()


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ({}, "site cluster: rollouts.engine=server needs server_command; set it, or rollouts.engine=in_process"),
        ({"server_command": "vllm serve"}, "does not say {model} and {port}, which the stage fills in"),
    ],
)
def test_recipe_that_asks_a_server_wants_a_site_that_starts_one(furnace: Furnace, site: dict[str, Any], said: str) -> None:
    furnace.project.write("cluster", site, "sites")
    furnace.project.write("asks", {"extends": "base", "rollouts": {"engine": "server"}})
    with pytest.raises(SystemExit) as caught:
        wiring(recipe="asks", site="cluster").start()
    assert said in str(caught.value)


def test_recipe_whose_answers_are_judged_wants_a_site_that_knows_where(furnace: Furnace) -> None:
    judged = with_entries(base())
    put(judged, "online.routes.ask", "judge")
    put(judged, "online.judge.model", "a-judge")
    furnace.project.write("judged", judged)
    with pytest.raises(SystemExit, match=r"site laptop: online.routes has judge and there is no judge_url"):
        wiring(recipe="judged").start()


def resources(wired: Wiring, stage: str) -> dict[str, Any]:
    return {name: value for name, value in wired.resources(stage).items() if not name.startswith("journal")}


def test_resources_are_the_stages_over_the_default_over_a_core_and_two_gigabytes(furnace: Furnace) -> None:
    site = {
        "ranks_per_node": 8,
        "setup": ["module load cuda/13"],
        "environment": {"OMP_NUM_THREADS": 1, "GREETING": "a b"},
        "resources": {
            "default": {"partition": "cpu", "memory": "1GiB", "runtime": "4h"},
            "pretrain": {"partition": "gpu", "gpus_per_node": 8, "cpus_per_task": 12, "runtime": "24h"},
        },
    }
    furnace.project.write("cluster", site, "sites")
    furnace.project.write(
        "wide",
        with_entries(base())
        | {"pretrain": {**base()["pretrain"], "batch_tokens": 2560, "parallel": {"ranks": 20}}, "reward": {"prefixes": 0}},
    )
    wired = wiring(recipe="wide", site="cluster")
    setup = "module load cuda/13; export OMP_NUM_THREADS=1; export GREETING='a b'"
    bad_nodes = str(wired.campaign.store.root / "bad-nodes")
    common = {"mem_mb": 1074, "slurm_setup": setup, "bad_nodes": bad_nodes, "hang_seconds": 0}
    assert resources(wired, "fetch") == {
        "nodes": 1, "tasks": 1, "cpus_per_task": 1, "runtime": 240, "slurm_partition": "cpu", **common,
    }  # fmt: skip
    assert resources(wired, "pretrain") == {
        "nodes": 3, "tasks": 20, "cpus_per_task": 12, "runtime": 1440, "gpus_per_node": 8, "slurm_partition": "gpu", **common,
        "hang_seconds": 1800,
    }  # fmt: skip
    of_tuning = {"nodes": 1, "tasks": 1, "cpus_per_task": 12, "slurm_partition": "gpu"}
    assert of_tuning.items() <= resources(wired, "sft").items(), "as pretraining, where the site says nothing of fine-tuning"
    plain = {"nodes": 1, "tasks": 1, "cpus_per_task": 1, "mem_mb": 2000, "bad_nodes": bad_nodes, "hang_seconds": 0}
    assert resources(wiring(), "fetch") == plain


def test_trainings_of_the_reward_model_have_ranks_of_their_own(furnace: Furnace) -> None:
    data = with_entries(base())
    data["reward"]["pretrain"]["parallel"], data["reward"]["tune"]["parallel"] = {"ranks": 8}, {"ranks": 2}
    furnace.project.write("ranked", data)
    wired = wiring(recipe="ranked")
    assert [wired.ranks(stage) for stage in ("reward_pretrain", "reward_tune", "ranks", "score")] == [8, 2, 1, 1]
    assert wired.resources("reward_pretrain")["hang_seconds"] > 0, "a training marks every step"


def test_interface_is_exported_to_jobs_and_environment_overrules_it(furnace: Furnace) -> None:
    site = {"setup": ["umask 002"], "network_interface": "ib0", "environment": {"NCCL_SOCKET_IFNAME": "=ib0,ib1"}}
    furnace.project.write("cluster", site, "sites")
    assert wiring(site="cluster").resources("pretrain")["slurm_setup"] == (
        "umask 002; export GLOO_SOCKET_IFNAME=ib0; export NCCL_SOCKET_IFNAME==ib0,ib1"
    )


def test_secrets_and_scratch_stand_in_no_resource_and_no_command(furnace: Furnace, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("HF_TOKEN=hush\n")
    (tmp_path / "secrets").chmod(0o600)
    furnace.project.write("cluster", {"secrets": str(tmp_path / "secrets"), "scratch": "/local/$USER"}, "sites")
    wired = wiring(site="cluster")
    given = str(wired.resources("pretrain")) + command(wired, "pretrain/1M")
    assert not any(word in given for word in ("hush", "HF_TOKEN", f"{tmp_path}/secrets", "/local"))


def test_driver_refuses_secrets_that_its_jobs_would_refuse(furnace: Furnace, tmp_path: Path) -> None:
    furnace.project.write("cluster", {"secrets": str(tmp_path / "absent")}, "sites")
    with pytest.raises(SystemExit, match="there is no such file; install -m 600"):
        wiring(site="cluster").start()


def test_journal_lives_in_the_artifacts_folder(furnace: Furnace) -> None:
    wired = wiring()
    found = wired.resources("fetch")["journal"](chosen(wired, "fetch/prose"))
    assert found == os.fspath(wired.campaign.store.folder(wired.campaign.lifecycle["fetch/prose"]))


def test_default_recipe_of_the_command_line_is_the_snakefiles() -> None:
    snakefile = (Path(__file__).parents[2] / "Snakefile").read_text()
    assert f'DEFAULT_RECIPE = "{DEFAULT_RECIPE}"' in snakefile
