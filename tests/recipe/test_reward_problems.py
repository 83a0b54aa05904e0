"""What a recipe's section `reward` can get wrong, and what each problem tells to write instead."""

from typing import Any

import pytest

from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import read_recipe
from athanor.recipe.reward import roster
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import with_entries

PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "prefixes of no length": ({"reward.shortest_prefix": 20}, "reward.shortest_prefix=20: above reward.longest_prefix=16"),
    "texts that are never long enough": (
        {"reward.shortest_text": 65},
        "reward.shortest_text=65: no text is as long, reward.max_new_tokens=64 at most; lower it",
    ),
    "more than the positions": (
        {"reward.max_new_tokens": 500},
        "reward.max_new_tokens=500: with reward.longest_prefix=16 more than model.max_sequence_length=512; lower one of them",
    ),
    "a temperature twice": ({"reward.temperatures": [1.0, 1]}, "reward.temperatures=[1.0, 1.0]: at least one, each once"),
    "no temperature": ({"reward.temperatures": []}, "reward.temperatures=[]: at least one, each once"),
    "test without negatives for training": (
        {"reward.test_models": 3},
        "reward.test_models=3: the roster has 4 models (400K, 600K, 1M, sft) and training needs 2 more than the test; "
        "add pretrain.milestone_tokens, or sft.tasks with sft.shuffled_control",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_names_key_value_and_way_out(project: Project, case: str) -> None:
    changes, expected = PROBLEMS[case]
    data = with_entries(base())
    for path, value in changes.items():
        put(data, path, value)
    project.write("bad", data)
    assert expected in [str(problem) for problem in read_recipe("bad").problems]


def test_roster_is_every_milestone_and_fine_tuned_model(project: Project) -> None:
    data = with_entries(base())
    project.write("base", put(data, "sft.shuffled_control", True))
    recipe = project.load()
    graph = Lifecycle(recipe, project.root)
    exported = [artifact.instance for artifact in graph.of("export")]
    assert roster(recipe) == ["400K", "600K", "1M", "sft", "sft-shuffled"] and set(roster(recipe)) < set(exported)
    assert [artifact.instance for artifact in graph.of("trajectories")] == roster(recipe)
    upstreams = graph["triples/polar"].upstreams
    assert {name for name in upstreams if name.startswith("trajectories-")} == {f"trajectories-{m}" for m in roster(recipe)}


def test_recipe_without_prefixes_has_no_roster_and_exports_no_milestones(project: Project) -> None:
    data = with_entries(base())
    del data["reward"]
    project.write("bare", data)
    graph = Lifecycle(project.load(name="bare"), project.root)
    assert not graph.of("trajectories") and not graph.of("triples")
    assert "export/400K" not in graph
