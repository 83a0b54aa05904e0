"""Why a stage would run, in words."""

import dataclasses
from collections.abc import Callable
from io import StringIO

import pytest

from athanor.artifacts.manifest import MANIFEST
from athanor.campaign.campaign import Campaign
from athanor.campaign.explanation import explain, print_plan
from athanor.campaign.registry import register
from athanor.recipe.graph import STAGES
from tests.campaign.conftest import Furnace
from tests.recipe.projects import PINS, make_project


def reasons(campaign: Campaign) -> dict[str, str]:
    return {reason.artifact.name: reason.why for reason in explain(campaign)}


@pytest.fixture
def done(furnace: Furnace) -> Campaign:
    """A campaign that ran to its end."""
    campaign = furnace.campaign()
    register(campaign)
    furnace.finish_all(campaign)
    return campaign


def test_first_start_misses_everything(furnace: Furnace) -> None:
    assert set(reasons(furnace.campaign()).values()) == {"missing"}


def test_finished_campaign_has_nothing_to_run(done: Campaign) -> None:
    assert reasons(done) == {}


def test_changed_key_is_named_with_both_values_and_followed_downstream(furnace: Furnace, done: Campaign) -> None:
    found = reasons(furnace.campaign("pretrain.lr=0.001"))
    assert found == {
        "pretrain/400K": "pretrain.lr 0.003 → 0.001",
        "pretrain/1M": "pretrain.lr 0.003 → 0.001",
        "pretrain/shuffled": "pretrain.lr 0.003 → 0.001",
        "export/1M": "made from another checkpoint",
        "evaluate/1M": "made from another model",
        "report/campaign": "made from another 400K, 1M, shuffled …",
    }


def test_many_changed_keys_are_counted(furnace: Furnace, done: Campaign) -> None:
    sizes = ["num_layers=2", "hidden_size=64", "head_dim=16", "num_experts=4", "expert_ffn_size=128", "rope_base=1e5"]
    found = reasons(furnace.campaign(*(f"model.{size}" for size in sizes)))
    assert found["initialize/model"] == (
        "model.num_layers 4 → 2, model.hidden_size 128 → 64, model.head_dim 32 → 16, model.num_experts 8 → 4 and 2 more"
    )


def test_key_that_came_or_went_is_shown_as_nothing(furnace: Furnace, done: Campaign) -> None:
    found = reasons(furnace.campaign("pretrain.decay_tokens=0"))
    assert "decay_start_tokens 800000 → nothing" in found["pretrain/1M"]


def test_raised_stage_version_is_named(furnace: Furnace, done: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "export", dataclasses.replace(STAGES["export"], version=2))
    assert reasons(furnace.campaign())["export/untrained"] == "stage version 1 → 2"


def test_bumped_package_is_named(furnace: Furnace, done: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_project(furnace.project.root.parent / "other")
    for tag in ("py311", "py312"):
        other.write_lock("cpu", tag, {**PINS, "lm-eval": "0.5.0"})
    other.write("laptop", {"store": str(done.store.root)}, "sites")
    monkeypatch.setenv("ATHANOR_PROJECT", str(other.root))
    found = reasons(furnace.campaign())
    assert found["evaluate/1M"] == "lm-eval 0.4.13 → 0.5.0"
    assert set(found) == {"evaluate/untrained", "evaluate/1M", "report/campaign"}


def test_going_back_finds_everything_done(furnace: Furnace, done: Campaign) -> None:
    register(furnace.campaign("pretrain.lr=0.001"))
    assert reasons(furnace.campaign()) == {}


def test_new_milestone_is_new(furnace: Furnace, done: Campaign) -> None:
    found = reasons(furnace.campaign("pretrain.milestone_tokens=[400K, 600K]"))
    assert found["pretrain/600K"] == "new in this campaign"
    assert "pretrain/400K" not in found


def test_deleted_manifest_will_be_adopted(furnace: Furnace, done: Campaign) -> None:
    (done.store.folder(done.lifecycle["tokenizer/bpe"]) / MANIFEST).unlink()
    assert reasons(furnace.campaign()) == {
        "tokenizer/bpe": "its manifest was deleted; the sealed bytes are there and will be adopted"
    }


def test_unfinished_stage_continues(furnace: Furnace) -> None:
    campaign = furnace.campaign()
    register(campaign)
    furnace.begin(campaign, campaign.lifecycle["fetch/prose"])
    found = reasons(furnace.campaign())
    assert found["fetch/prose"] == "not finished yet: it continues"
    assert found["fetch/chemistry"] == "missing"


def test_change_of_what_never_ran_is_told_without_details(furnace: Furnace) -> None:
    register(furnace.campaign())
    assert reasons(furnace.campaign("seed=5"))["initialize/model"] == "changed since the last start"


def test_plan_prints_one_line_an_artifact(furnace: Furnace, done: Campaign) -> None:
    out = StringIO()
    print_plan(furnace.campaign("evaluate.limit=5"), out)
    title, *lines = out.getvalue().splitlines()
    assert title == "campaign base at laptop: 3 of 18 stages to run"
    assert [line.split()[0] for line in lines] == ["evaluate/untrained", "evaluate/1M", "report/campaign"]
    assert lines[0].endswith("evaluate.limit 0 → 5")


def test_plan_command_takes_overrides(furnace: Furnace, done: Campaign, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    assert run_cli("plan")[1] == "campaign base at laptop: 0 of 18 stages to run\n"
    assert "evaluate.limit 0 → 5" in run_cli("plan", "--set", "evaluate.limit=5")[1]
