"""Files into recipes: what extends what, what a lock adds, what an override changes, and how two recipes compare."""

import dataclasses
from pathlib import Path

import pytest

from athanor.cli import main
from athanor.recipe.comparison import changed_keys
from athanor.recipe.loading import load_recipe, load_site, parse_set, read_recipe, resolved_text
from athanor.recipe.problems import Problem, RecipeError
from athanor.recipe.schema.choices import Precision, Suite
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import BatchSwitch
from tests.recipe.projects import Project, base, put


def test_extending_recipe_merges_sections_and_replaces_lists(project: Project) -> None:
    child = {"extends": "base", "seed": 7, "pretrain": {"milestone_tokens": ["100K", "200K"], "mixture": {"prose": 5}}}
    project.write("child", child)
    parent, recipe = project.load(), project.load(name="child")
    assert recipe.pretrain.milestone_tokens == [100_000, 200_000]
    assert recipe.pretrain.mixture == {"prose": 5.0, "chemistry": 1.0}
    assert {key for key, _, _ in changed_keys(parent, recipe)} == {
        "seed", "pretrain.milestone_tokens", "pretrain.mixture.prose",
    }  # fmt: skip


def test_recipe_is_called_by_its_file_whatever_it_extends(project: Project) -> None:
    project.write("base", put(base(), "name", "base"))
    project.write("child", {"extends": "base"})
    assert project.load(name="child").name == "child"


def test_extending_goes_through_several_files(project: Project) -> None:
    project.write("child", {"extends": "base", "model": {"num_layers": 2, "hidden_size": 64}})
    project.write("grandchild", {"extends": "child", "model": {"hidden_size": 32}})
    recipe = project.load(name="grandchild")
    assert (recipe.model.num_layers, recipe.model.hidden_size, recipe.model.num_experts) == (2, 32, 8)


def test_recipe_may_be_a_path(project: Project, tmp_path: Path) -> None:
    path = project.write("base", base()).rename(tmp_path / "elsewhere.yaml")
    recipe = load_recipe(str(path))
    assert recipe.name == "elsewhere"
    assert recipe.pretrain.token_budget == 1_000_000


def test_interpolation_repeats_a_value_of_the_same_file(project: Project) -> None:
    data = put(put(base(), "tokenizer.vocab_size", 2048), "model.vocab_size", "${tokenizer.vocab_size}")
    project.write("base", data)
    assert project.load().model.vocab_size == 2048


def test_lock_fills_in_what_floats(project: Project) -> None:
    source = {"kind": "pip", "package": "networkx", "licence": "MIT", "domain": "code", "format": "code", "path": "**/*.py"}
    project.write("base", put(base(), "data.sources.code", source))
    (problem,) = read_recipe("base").problems
    assert str(problem) == "data.sources.code='networkx': floats (no version); lock it: athanor recipe lock base"
    project.write("base.lock", {"data": {"sources": {"code": {"version": "3.6.1", "sha256": "d" * 64}}}})
    assert project.load().data.sources["code"].version == "3.6.1"


def test_lock_of_a_base_holds_for_what_extends_it(project: Project) -> None:
    data = base()
    del data["data"]["sources"]["prose"]["sha256"]
    project.write("base", data)
    project.write("base.lock", {"data": {"sources": {"prose": {"sha256": "d" * 64}}}})
    project.write("child", {"extends": "base"})
    assert project.load(name="child").data.sources["prose"].sha256 == "d" * 64


def test_locks_are_not_offered_as_recipes(project: Project) -> None:
    project.write("base.lock", {})
    with pytest.raises(RecipeError, match=r"there are base$"):
        load_recipe("zzz")


OVERRIDES = {
    "seed=7": ("seed", 7),
    "pretrain.lr=3e-4": ("pretrain.lr", 3e-4),
    "pretrain.lr=1": ("pretrain.lr", 1.0),
    "pretrain.token_budget=2.5M": ("pretrain.token_budget", 2_500_000),
    "pretrain.token_budget=1_500_000": ("pretrain.token_budget", 1_500_000),
    "data.sources.prose.max_bytes=0": ("data.sources.prose.max_bytes", 0),
    "model.tie_embeddings=True": ("model.tie_embeddings", True),
    "pretrain.precision=bf16": ("pretrain.precision", Precision.BF16),
    "evaluate.suites=[mmlu_dev]": ("evaluate.suites", [Suite.MMLU_DEV]),
    "pretrain.milestone_tokens=[]": ("pretrain.milestone_tokens", []),
    "pretrain.milestone_tokens=[100K, 300K]": ("pretrain.milestone_tokens", [100_000, 300_000]),
    "pretrain.batch_switches=[{at_tokens: 200K, batch_tokens: 4096}]": (
        "pretrain.batch_switches",
        [BatchSwitch(200_000, 4096)],
    ),
    "pretrain.mixture={prose: 1, chemistry: 2}": ("pretrain.mixture", {"prose": 1.0, "chemistry": 2.0}),
    "pretrain.mixture.prose=2": ("pretrain.mixture", {"prose": 2.0, "chemistry": 1.0}),
    "data.sources.prose.template={text}=x": ("data.sources.prose.template", "{text}=x"),
    " pretrain.warmup_tokens = 10K ": ("pretrain.warmup_tokens", 10_000),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_override_reads_as(project: Project, override: str) -> None:
    path, expected = OVERRIDES[override]
    value: object = project.load(override)
    for name in path.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected


def test_later_override_wins(project: Project) -> None:
    assert project.load("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        (None, []),
        ("seed=2", ["seed=2"]),
        (["seed=2", " pretrain.lr=3e-4 "], ["seed=2", "pretrain.lr=3e-4"]),
        ("pretrain.milestone_tokens=[200K,300K]", ["pretrain.milestone_tokens=[200K,300K]"]),
    ],
)
def test_set_reads_as(given: object, overrides: list[str]) -> None:
    assert parse_set(given) == overrides


def test_site_extends_and_keeps_shell_variables(project: Project) -> None:
    project.write("cluster", {"extends": "laptop", "setup": ["export TMPDIR=$HOME/tmp"], "environment": {"N": 1}}, "sites")
    site = load_site("cluster")
    assert (site.name, site.store, site.heartbeat_seconds) == ("cluster", "store", 1)
    assert site.setup == ["export TMPDIR=$HOME/tmp"]
    assert site.environment == {"N": "1"}


def test_defaults_are_not_shared_between_recipes() -> None:
    one, other = Recipe(), Recipe()
    one.evaluate.suites.clear()
    one.pretrain.mixture["x"] = 1.0
    assert other == Recipe()
    assert dataclasses.replace(other, seed=1) != other


def test_problem_shows_key_value_and_way_out() -> None:
    assert str(Problem("a.b", 3, "use 4")) == "a.b=3: use 4"
    assert str(Problem("a.b", "x", "use y")) == "a.b='x': use y"
    assert str(Problem("a.b", None, "is missing")) == "a.b: is missing"


def test_show_prints_every_key_and_reads_back(project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["recipe", "show", "base", "pretrain.lr=3e-4"]) == 0
    shown = capsys.readouterr().out
    assert shown == resolved_text(project.load("pretrain.lr=3e-4"))
    (tmp_path / "base.yaml").write_text(shown)
    assert load_recipe(str(tmp_path / "base.yaml")) == project.load("pretrain.lr=3e-4")


def test_diff_names_keys_and_what_would_be_made(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "diff", "base", "evaluate.limit=5", "evaluate.batch_size=4"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "evaluate.limit: 0 → 5",
        "evaluate.batch_size: 16 → 4",
        "15 stages are shared; 3 would be made: evaluate/untrained, evaluate/1M, report/campaign",
    ]
    project.write("other", {"extends": "base", "pretrain": {"shuffled_control": False}})
    assert main(["recipe", "diff", "base", "other"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pretrain.shuffled_control: True → False",
        "16 stages are shared; 1 would be made: report/campaign",
    ]


def test_diff_with_a_bad_override_prints_the_report(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "diff", "base", "pretrain.lr=7"]) == 1
    assert "pretrain.lr='7': must be above 0 and at most 1" in capsys.readouterr().err
