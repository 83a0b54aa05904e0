"""Recipe tiny as shipped, from the package index to the report: it learns, and says so honestly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from athanor.rl.online.rounds import read_round
from tests.lifecycle.project import CHECKOUT, SITE, Project

pytestmark = pytest.mark.slow

LEARNT_NATS = 0.5  # below a unigram model of the same domain
FORM_NATS = 0.2  # what fine-tuning may lie behind the control, which learns the form of answers alone, where that is all
ANSWERED_NATS = 0.3  # below the model before fine-tuning, for every task
CONTROL_NATS = 0.1  # a model of shuffled tokens has only frequencies to learn


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The shipped recipe, run to its end in a store of its own."""
    project = Project(tmp_path_factory.mktemp("tiny"))
    for name in ("rules", "profiles", "envs", "config"):
        shutil.copytree(CHECKOUT / name, project.folder / name)
    shutil.copy(CHECKOUT / "Snakefile", project.folder)
    project.write("config/sites/laptop.yaml", {**SITE, "resources": {"default": {"cpus_per_task": 1, "memory": "3GB"}}})
    done = project.snakemake(seconds=2400)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def results(project: Project) -> dict[str, Any]:
    """What the report stage measured."""
    found: dict[str, Any] = json.loads((project.folder_of("report/campaign") / "results.json").read_text())
    return found


def test_every_manifest_verifies_deep_and_nothing_is_left_to_do(tiny: Project) -> None:
    assert tiny.athanor("verify", "--deep").returncode == 0
    assert tiny.to_run() == []


def test_validation_loss_is_well_below_unigram_in_every_domain(tiny: Project) -> None:
    margins = {row["domain"]: row["margins"] for row in results(tiny)["domains"]}
    assert len(margins) == 6
    assert {domain: m["unigram"] for domain, m in margins.items() if m["unigram"] < LEARNT_NATS} == {}


def test_shuffled_control_learns_no_more_than_frequencies(tiny: Project) -> None:
    rows = results(tiny)["domains"]
    assert {r["domain"]: r["shuffled"] - r["unigram"] for r in rows if r["shuffled"] < r["unigram"] - CONTROL_NATS} == {}


def test_fine_tuned_answers_are_likelier_than_before(tiny: Project) -> None:
    """Most of it is the form of the answers, which the control learns, too: so few tokens teach little of what is asked."""
    margins = {row["task"]: row["margins"] for row in results(tiny)["tasks"]}
    assert len(margins) == 6
    assert {task: m["base"] for task, m in margins.items() if m["base"] < ANSWERED_NATS} == {}
    assert {task: m["shuffled"] for task, m in margins.items() if m["shuffled"] < -FORM_NATS} == {}
    assert margins["sums"]["shuffled"] > 0, (
        "what is asked counts where it can be learnt: 0.08 nats on the machine it was tried on"
    )


def test_trained_beats_untrained_by_two_standard_errors_somewhere(tiny: Project) -> None:
    gains = [row["gain_in_stderrs"] for row in results(tiny)["scores"] if row["gain_in_stderrs"] is not None]
    assert max(gains) > 2


def test_exported_folder_loads_with_plain_transformers(tiny: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = tiny.folder_of("export/480K") / "model"
    model, info = AutoModelForCausalLM.from_pretrained(trained, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    text = "Carbon is a chemical element"
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model.config.num_experts == 8


def test_report_has_the_figures(tiny: Project) -> None:
    done = tiny.athanor("report")
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip()).read_text()
    assert all(figure in page for figure in ("loss.svg", "validation.svg", "scores.svg"))


def test_online_rl_learns_from_verifiers_and_from_the_reward_model(tiny: Project) -> None:
    made = [read_round(tiny.folder_of("online/model"), number) for number in range(4)]
    learnt = [answer for one in made if one is not None for answer in one.answers if answer.advantage is not None]
    assert {answer.route for answer in learnt} == {"verifier", "reward_model"}
    assert all(answer.right is None for answer in learnt if answer.route == "reward_model")
    assert all(answer.reward == float(bool(answer.right)) for answer in learnt if answer.route == "verifier")
    [online] = results(tiny)["online"]
    assert online["model"] == "model" and len(online["entropy"]) == 4 and min(online["entropy"]) > 0
