"""Who an artifact is: what keeps its fingerprint, what milestones remember, and what two recipes share."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.campaign.campaign import Campaign
from athanor.recipe.fingerprint import fingerprint
from athanor.recipe.graph import STAGES, Artifact
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_recipe, load_resolved, resolved_text
from athanor.recipe.schedules import decay_of
from athanor.recipe.schema.choices import Schedule
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import BatchSwitch, Pretrain
from athanor.recipe.site import Site
from athanor.recipe.units import Unit, format_quantity
from tests.recipe.projects import PINS, Project, base, make_project

# Fingerprints of the small recipe. Another value here means that every store out there is orphaned: change it only
# together with a stage's version, or with a key of the recipe that decides results.
GOLDEN: dict[str, str] = {
    "fetch/prose": "fetch/952db24457fd9d4d",
    "fetch/chemistry": "fetch/5a26cf3724756bfb",
    "tokenizer/bpe": "tokenizer/8d44f501ce4b82ab",
    "tokenize/prose-0": "tokenize/4cb69f81ed82c5fc",
    "tokenize/prose-1": "tokenize/0815709a302d6322",
    "tokenize/prose-held_out": "tokenize/028ba4c0167df756",
    "tokenize/chemistry-0": "tokenize/ded032b27729f184",
    "tokenize/chemistry-held_out": "tokenize/09ab4eb85aec9efe",
    "initialize/model": "initialize/e778a1c935ad200a",
    "pretrain/400K": "pretrain/c88757ad7e413c3f",
    "pretrain/1M": "pretrain/6c80d1ec5018e307",
    "pretrain/shuffled": "pretrain/4bcb674a196fb4f7",
    "baselines/ngram": "baselines/b29b7896f5bb5c71",
    "export/untrained": "export/72e6a4acac36528e",
    "evaluate/untrained": "evaluate/0d66f546df3b530d",
    "export/1M": "export/452e51a73532b8c2",
    "evaluate/1M": "evaluate/30e13e74e966d6af",
    "report/campaign": "report/ae2a4b881d996c41",
}


def paths(recipe: Recipe, project: Path) -> dict[str, str]:
    return {artifact.name: artifact.path for artifact in Lifecycle(recipe, project)}


def test_fingerprints_of_the_small_recipe_are_what_they_always_were(project: Project) -> None:
    assert paths(project.load(), project.root) == GOLDEN


TIDY = """
# the same recipe, written by another hand
pretrain:
  mixture: {chemistry: 1.0, prose: 3.0}   # order and spelling of numbers
  shuffled_control: yes
  decay_tokens: 0.2M
  milestone_tokens:
    - 400_000
  token_budget: 1e6
data:
  sources:
    chemistry: {entity: "{text}", template: "{text}", format: jsonl, domain: molecules, licence: MIT,
                path: "corpora/*.jsonl", kind: local, sha256: B_HASH}
    prose:
      shards: 2
      format: text
      domain: encyclopedia
      licence: CC0-1.0
      path: corpora/prose.txt
      sha256: A_HASH
      kind: local
  licences_allowed: [MIT, CC0-1.0]
seed: 1
""".replace("A_HASH", "a" * 64).replace("B_HASH", "b" * 64)


def test_comments_order_and_spelling_change_nothing(project: Project) -> None:
    before = paths(project.load(), project.root)
    project.write("base", TIDY)
    assert paths(project.load(), project.root) == before


def test_resolved_recipe_reads_back_as_itself(project: Project, tmp_path: Path) -> None:
    recipe = project.load("pretrain.batch_switches=[{at_tokens: 200K, batch_tokens: 4096}]", "pretrain.lr=3e-4")
    (tmp_path / "plan.yaml").write_text(resolved_text(recipe))
    assert load_resolved(tmp_path / "plan.yaml") == recipe
    assert load_recipe(str((tmp_path / "plan.yaml").rename(tmp_path / "base.yaml"))) == recipe


@pytest.mark.parametrize("text", ["${HOME}", "a\\${b}", "${", "\\", "naïve ü", "{text}\n\n{title}", "1e-3", "no", " x "])
def test_any_text_survives_resolving(project: Project, tmp_path: Path, text: str) -> None:
    data = base()
    data["data"]["sources"]["prose"]["template"] = "x"
    recipe = project.load()
    recipe.data.sources["prose"].template = text
    (tmp_path / "plan.yaml").write_text(resolved_text(recipe))
    assert load_resolved(tmp_path / "plan.yaml").data.sources["prose"].template == text


def with_pretrain(recipe: Recipe, pretrain: Pretrain) -> Recipe:
    return dataclasses.replace(recipe, pretrain=pretrain)


@st.composite
def campaigns(draw: st.DrawFn) -> tuple[list[int], tuple[int, int], tuple[int, int]]:
    """Common milestones, and two pairs of budget and decay behind them (in tokens)."""
    ends = sorted(draw(st.sets(st.integers(1, 100), max_size=4)))
    last = ends[-1] if ends else 0
    pairs = []
    for _ in range(2):
        budget = draw(st.integers(last + 1, 200))
        pairs.append((budget * 10_000, draw(st.integers(0, budget)) * 10_000))
    return [end * 10_000 for end in ends], pairs[0], pairs[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """The small recipe and its project, made once: hypothesis changes the recipe alone."""
    project = make_project(tmp_path_factory.mktemp("identity") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATHANOR_PROJECT", str(project.root))
        return project.load(), project.root


@given(campaign=campaigns())
@settings(max_examples=60, deadline=None)
def test_milestone_survives_another_budget_unless_a_decay_had_begun(
    small: tuple[Recipe, Path], campaign: tuple[list[int], tuple[int, int], tuple[int, int]]
) -> None:
    ends, *pairs = campaign
    recipe, project = small
    plans = [
        dataclasses.replace(recipe.pretrain, milestone_tokens=ends, token_budget=budget, decay_tokens=decay)
        for budget, decay in pairs
    ]
    one, two = (paths(with_pretrain(recipe, plan), project) for plan in plans)
    starts = [decay.start_tokens if (decay := decay_of(plan)) else 10**9 for plan in plans]
    for end in ends:
        name = f"pretrain/{format_quantity(end, Unit.TOKENS)}"
        untouched = all(end <= start for start in starts) or (starts[0] == starts[1] and pairs[0][1] == pairs[1][1])
        assert (one[name] == two[name]) == untouched


@given(budget=st.integers(50, 100), more=st.integers(1, 100))
@settings(max_examples=30, deadline=None)
def test_extending_a_campaign_without_decay_keeps_all_it_trained(small: tuple[Recipe, Path], budget: int, more: int) -> None:
    recipe, project = small
    before = dataclasses.replace(recipe.pretrain, token_budget=budget * 10_000, decay_tokens=0)
    ends = [*before.milestone_tokens, before.token_budget]
    after = dataclasses.replace(before, milestone_tokens=ends, token_budget=(budget + more) * 10_000)
    one, two = (paths(with_pretrain(recipe, plan), project) for plan in (before, after))
    kept = {name for name, path in one.items() if path in two.values()}
    label = format_quantity(before.token_budget, Unit.TOKENS)
    assert set(one) - kept == {"pretrain/shuffled", f"export/{label}", f"evaluate/{label}", "report/campaign"}


@given(at=st.integers(1, 99))
@settings(max_examples=30, deadline=None)
def test_batch_switch_changes_only_milestones_that_end_after_it(small: tuple[Recipe, Path], at: int) -> None:
    recipe, project = small
    plan = dataclasses.replace(recipe.pretrain, milestone_tokens=[200_000, 400_000, 600_000])
    switched = dataclasses.replace(plan, batch_switches=[BatchSwitch(at * 10_000, 4096)])
    one, two = (paths(with_pretrain(recipe, p), project) for p in (plan, switched))
    for end in (200_000, 400_000, 600_000):
        name = f"pretrain/{format_quantity(end, Unit.TOKENS)}"
        assert (one[name] == two[name]) == (end <= at * 10_000)


def test_constant_schedule_knows_no_decay(small: tuple[Recipe, Path]) -> None:
    recipe, project = small
    constant = dataclasses.replace(recipe.pretrain, schedule=Schedule.CONSTANT)
    for change in ({"decay_tokens": 1000}, {"min_lr": 1e-6}, {"token_budget": 1_000_000}):
        other = dataclasses.replace(constant, **change)  # type: ignore[arg-type]
        assert paths(with_pretrain(recipe, constant), project) == paths(with_pretrain(recipe, other), project)


def test_cosine_is_another_curve_for_another_budget(small: tuple[Recipe, Path]) -> None:
    recipe, project = small
    cosine = dataclasses.replace(recipe.pretrain, schedule=Schedule.COSINE, decay_tokens=0, milestone_tokens=[100_000])
    longer = dataclasses.replace(cosine, token_budget=2 * cosine.token_budget)
    one, two = (paths(with_pretrain(recipe, plan), project) for plan in (cosine, longer))
    assert one["pretrain/100K"] != two["pretrain/100K"]


def test_shuffled_control_starts_from_scratch_and_differs_in_the_order_alone(small: tuple[Recipe, Path]) -> None:
    recipe, project = small
    graph = Lifecycle(with_pretrain(recipe, dataclasses.replace(recipe.pretrain, milestone_tokens=[])), project)
    natural, shuffled = graph["pretrain/1M"], graph["pretrain/shuffled"]
    assert natural.upstreams == shuffled.upstreams
    differing = {key for key in natural.section if natural.section[key] != shuffled.section[key]}
    assert differing == {"token_order"}


def test_milestone_is_trained_from_the_one_before(project: Project) -> None:
    graph = Lifecycle(project.load(), project.root)
    assert graph["pretrain/400K"].upstreams["start"] is graph["initialize/model"]
    assert graph["pretrain/1M"].upstreams["start"] is graph["pretrain/400K"]
    assert graph["export/1M"].upstreams["checkpoint"] is graph["pretrain/1M"]


def test_artifacts_come_in_an_order_they_can_be_made_in(project: Project) -> None:
    made: set[str] = set()
    for artifact in Lifecycle(project.load(), project.root):
        assert {upstream.name for upstream in artifact.upstreams.values()} <= made
        made.add(artifact.name)


def test_site_is_no_part_of_an_identity(project: Project) -> None:
    for artifact in Lifecycle(project.load(), project.root):
        assert str(project.root) not in str(artifact.identity())


SITE = {
    "store": "/project/x",
    "tracking_uri": "https://mlflow.example",
    "download_cache": "/project/x/downloads",
    "ranks_per_node": 4,
    "peak_tflops": 989.4,
    "heartbeat_seconds": "3s",
    "hang_minutes": "1h",
    "notify": "true",
    "scratch": "/local/$USER",
    "network_interface": "ib0",
    "secrets": "~/.athanor/secrets",
    "server_command": "vllm serve {model} --port {port}",
    "server_seconds": 600,
    "server_reload": ["/reload"],
    "judge_url": "http://judge:8000/v1",
    "setup": ["module load cuda/13"],
    "environment": {"OMP_NUM_THREADS": "2"},
    "resources": {"default": {"partition": "gpu", "python": "/opt/venv/bin/python", "launch_prefix": "apptainer exec x.sif"}},
}


def test_campaign_at_a_site_with_every_key_set_makes_the_same_artifacts(project: Project) -> None:
    assert set(SITE) == {field.name for field in dataclasses.fields(Site)} - {"name"}
    project.write("cluster", SITE, "sites")
    assert {artifact.name: artifact.path for artifact in Campaign.open("base", "cluster").lifecycle} == GOLDEN


def test_higher_stage_version_changes_the_stage_and_what_is_made_from_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = paths(project.load(), project.root)
    monkeypatch.setitem(STAGES, "export", dataclasses.replace(STAGES["export"], version=99))
    after = paths(project.load(), project.root)
    changed = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert changed == {"export", "evaluate", "report"}


def test_fingerprint_is_the_hash_of_the_identity(project: Project) -> None:
    for artifact in Lifecycle(project.load(), project.root):
        assert artifact.fingerprint == fingerprint(artifact.identity())
        assert artifact.path == f"{artifact.stage}/{artifact.fingerprint}"


def test_artifact_is_found_by_name_and_by_path_and_not_otherwise(project: Project) -> None:
    graph = Lifecycle(project.load(), project.root)
    artifact: Artifact = graph["pretrain/400K"]
    assert graph.by_path(artifact.path) is artifact
    assert "pretrain/400K" in graph
    assert "pretrain/500K" not in graph
    with pytest.raises(KeyError):
        graph.by_path("pretrain/0000000000000000")


BUMPED = {
    "rich": set(),
    "tokenizers": {"tokenizer", "tokenize", "pretrain", "baselines", "export", "evaluate", "report"},
    "torch": {"initialize", "pretrain", "export", "evaluate", "report"},
    "megatron-core": {"initialize", "pretrain", "export", "evaluate", "report"},
    "transformer-engine": {"pretrain", "export", "evaluate", "report"},
    "numpy": {"baselines", "report"},
    "safetensors": {"export", "evaluate", "report"},
    "transformers": {"export", "evaluate", "report"},
    "lm-eval": {"evaluate", "report"},
    "matplotlib": {"report"},
}


@pytest.mark.parametrize("package", BUMPED)
def test_bumped_package_reruns_exactly_what_it_decides(project: Project, tmp_path: Path, package: str) -> None:
    other = make_project(tmp_path / "bumped")
    for tag in ("py311", "py312"):
        other.write_lock("cpu", tag, {**PINS, package: "99.0"})
    recipe = project.load()
    before, after = paths(recipe, project.root), paths(recipe, other.root)
    assert {name.split("/")[0] for name in before if before[name] != after[name]} == BUMPED[package]
