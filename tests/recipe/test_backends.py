"""What the backend of fine-tuning makes of the graph behind it: who starts from whose folder, and what decides their results."""

from typing import Any

import pytest

from athanor.recipe.graph import Artifact
from athanor.recipe.lifecycle import Lifecycle
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import with_entries

DENSE = {"sft.backend": "deepspeed", "model.num_experts": 0, "offline.controls": True}


def _graph(project: Project, changes: dict[str, Any]) -> dict[str, Artifact]:
    data = with_entries(base())
    for path, value in changes.items():
        put(data, path, value)
    project.write("base", data)
    return {artifact.name: artifact for artifact in Lifecycle(project.load(), project.root)}


def test_offline_rl_through_deepspeed_goes_on_from_the_fine_tuned_folder_by_its_own_packages(project: Project) -> None:
    graph = _graph(project, DENSE)
    for name in ("model", "drawn", "more", "600K"):
        learnt = graph[f"offline/{name}"]
        assert learnt.packages.keys() >= {"torch", "deepspeed", "transformers"} and "megatron-core" not in learnt.packages
        assert "adapted" not in learnt.upstreams
    assert graph["offline/600K"].upstreams["start"] is graph["sft/model"]
    assert graph["offline/model"].upstreams["start"] is graph["offline/600K"]
    assert graph["preference/model"].upstreams["start"] is graph["export/offline"]


def test_adapters_of_a_later_point_are_beside_what_the_first_point_started_from(project: Project) -> None:
    graph = _graph(project, {**DENSE, "offline.peft.kind": "lora"})
    assert graph["offline/model"].upstreams["adapted"] is graph["sft/model"]
    assert not any("adapted" in graph[f"offline/{name}"].upstreams for name in ("600K", "drawn", "more"))


@pytest.mark.parametrize("key", ["offline.zero.stage", "offline.parallel.ranks"])
def test_spread_over_ranks_is_no_part_of_what_offline_rl_learns(project: Project, key: str) -> None:
    plain, other = (_graph(project, changes)["offline/model"] for changes in (DENSE, {**DENSE, key: 2}))
    assert plain.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"offline.peft.kind": "lora"},
        {"offline.peft.kind": "lora", "offline.peft.rank": 4},
        {"offline.optimizer.name": "lion"},
        {"sft.peft.kind": "lora"},
    ],
)
def test_what_is_trained_and_how_is(project: Project, changes: dict[str, Any]) -> None:
    plain, other = (_graph(project, more)["offline/model"] for more in (DENSE, {**DENSE, **changes}))
    assert plain.fingerprint != other.fingerprint


@pytest.mark.parametrize("section", ["sft", "offline"])
def test_what_rounds_weights_decides_the_results_of_those_trainings_alone(project: Project, section: str) -> None:
    graph = _graph(project, {**DENSE, f"{section}.peft.kind": "qlora"})
    rounded = {name for name, artifact in graph.items() if "bitsandbytes" in artifact.packages}
    assert f"{section}/model" in rounded and {name.split("/")[0] for name in rounded} == {section}
