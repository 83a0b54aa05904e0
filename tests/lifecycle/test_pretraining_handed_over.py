"""A campaign whose milestones transformers' Trainer reaches: killed on the way, with the losses of Athanor's own trainer."""

import json
import shutil
from typing import Any

import pytest

from tests.lifecycle.project import CHECKOUT, Project, recipe, wait_until

pytestmark = pytest.mark.slow

SCRIPT = "examples/transformers/pretrain.py"
RATE, BATCH, STEPS = 1e-3, 16, 32  # windows of 32 tokens a step; steps of both milestones
ADAM = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.0, "clip_grad": 1.0}
SETTINGS: dict[str, Any] = {
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "adam_beta1": ADAM["beta1"],
    "adam_beta2": ADAM["beta2"],
    "adam_epsilon": ADAM["epsilon"],
    "weight_decay": ADAM["weight_decay"],
    "max_grad_norm": ADAM["clip_grad"],
    "windows_a_step": BATCH,
    "save_steps": 4,
}
SHARED = ("milestone_tokens", "token_budget", "sequence_length", "mixture", "validation_tokens")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Both campaigns; the ranks of the other trainer's first milestone were killed behind a checkpoint."""
    project = Project.make(tmp_path_factory.mktemp("elsewhere") / "project")
    shutil.copytree(CHECKOUT / "examples", project.folder / "examples")
    small: dict[str, Any] = recipe()
    small["model"] |= {"aux_loss_coefficient": 0.0}
    given = {name: small["pretrain"][name] for name in SHARED}
    external = {
        "command": f"python {SCRIPT} {{handover}}",
        "files": [SCRIPT],
        "version": "python -c \"import transformers; print('transformers', transformers.__version__)\"",
        "settings": SETTINGS,
    }
    elsewhere = {**given, "average": 2, "parallel": {"ranks": 2, "expert": 2}, "external": external}
    small["pretrain"] |= {"warmup_tokens": 0, "decay_tokens": 0, "lr": RATE, "min_lr": RATE, "optimizer": ADAM}
    project.write_recipe("tiny", small)
    project.write_recipe("elsewhere", {**small, "pretrain": elsewhere})
    for name in ("tiny", "elsewhere"):
        locked = project.athanor("recipe", "lock", name)
        assert locked.returncode == 0, locked.stderr
    assert project.snakemake().returncode == 0
    driver = project.start_snakemake("--config", "recipe=elsewhere")
    wait_until(lambda: any(project.store.glob("pretrain/*/external/checkpoints/*/trainer_state.json")), "a checkpoint of its own")
    assert project.kill_ranks("pretrain") >= 1
    assert driver.wait(timeout=900) == 0, (project.folder / "driver.log").read_text()
    return project


def curve(project: Project, campaign: str) -> list[dict[str, float]]:
    folders = [project.folder_of(f"pretrain/{end}", campaign) for end in ("8192", "16384")]
    return [json.loads(line) for folder in folders for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_losses_are_those_of_our_trainer_step_by_step(project: Project) -> None:
    ours, theirs = curve(project, "tiny"), curve(project, "elsewhere")
    assert [p["step"] for p in theirs] == [p["step"] for p in ours] == list(range(1, STEPS + 1))
    assert [p["tokens"] for p in theirs] == [p["tokens"] for p in ours]
    assert ours[0]["loss"] - ours[-1]["loss"] > 0.5, "something is learnt"
    # The second milestone begins with fresh moments there, and with its own here.
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours[:16], theirs[:16], strict=True))
    assert apart < 1e-4, "before the kill and behind it"


def test_held_out_text_is_measured_by_us(project: Project) -> None:
    ours, theirs = (
        json.loads((project.folder_of("pretrain/8192", campaign) / "validation.json").read_text())
        for campaign in ("tiny", "elsewhere")
    )
    assert theirs["prose"]["nats_per_token"] == pytest.approx(ours["prose"]["nats_per_token"], abs=1e-3)
    assert theirs["prose"]["tokens"] == ours["prose"]["tokens"]


def test_killed_trainer_went_on_and_what_it_made_is_gone_on_from(project: Project) -> None:
    folder = project.folder_of("pretrain/8192", "elsewhere")
    first, second = (
        [json.loads(line)["step"] for line in (folder / "external" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("001", "002")
    )
    assert first[0] == 1 and 2 < second[0] <= first[-1] + 1, "not from the beginning"
    assert not (folder / "model").exists() and not (folder / "external" / "checkpoints").exists()
    manifest = project.manifest("pretrain/16384", "elsewhere")
    assert manifest["result"]["counters"] == {"step": STEPS, "tokens": 16_384, "samples": 512}
    assert manifest["provenance"]["trainer"]["version"].startswith("transformers ")  # type: ignore[index]
    assert project.athanor("verify", "--deep", "--recipe", "elsewhere").returncode == 0


def test_campaign_is_evaluated_and_reported_as_any(project: Project) -> None:
    folder = project.folder_of("report/campaign", "elsewhere")
    results = json.loads((folder / "results.json").read_text())
    assert [told["model"] for told in results["handed_over"]] == ["pretrain/8192", "pretrain/16384"]
    assert SCRIPT in (folder / "summary.html").read_text()
    assert len(project.to_run("recipe=elsewhere")) == 0
