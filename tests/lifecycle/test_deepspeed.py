"""A dense campaign whose fine-tuning goes through DeepSpeed: from the exported folder to answers, killed on the way."""

import json
from pathlib import Path

import pytest

from tests.lifecycle.project import Project, recipe, wait_until

pytestmark = pytest.mark.slow

SFT = {
    "backend": "deepspeed",
    "zero": {"stage": 3},
    "tasks": {
        "files": {
            "source": "prose",
            "turns": [{"prompts": ["Name {path}", "What is {path}?"], "response": "{name}"}],
            "taxonomy": ["language", "reading", "recall"],
        }
    },
    "mixture": {"files": 1},
    "token_budget": 16384,
    "sequence_length": 64,
    "batch_tokens": 512,
    "warmup_tokens": 1024,
    "validate_every_tokens": 4096,
    "answers": {"prompts": 8, "samples": 2, "max_new_tokens": 24},
    "parallel": {"ranks": 2},
    "checkpoint": {"every_tokens": 2048},
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole campaign, whose ranks were killed behind their first save."""
    project = Project.make(tmp_path_factory.mktemp("deepspeed") / "project")
    small = recipe()
    small["model"] = {**small["model"], "num_experts": 0}  # type: ignore[dict-item]
    pretrain = {**small["pretrain"], "token_budget": 8192, "milestone_tokens": [], "parallel": {"micro_batch_size": 4}}  # type: ignore[dict-item]
    project.write_recipe("tiny", {**small, "pretrain": pretrain, "sft": SFT})
    locked = project.athanor("recipe", "lock", "tiny")
    assert locked.returncode == 0, locked.stderr
    driver = project.start_snakemake()
    wait_until(lambda: any(project.store.glob("sft/*/checkpoints/*/state.json")), "a checkpoint")
    assert project.kill_ranks("sft") == 2
    assert driver.wait(timeout=600) == 0, (project.folder / "driver.log").read_text()
    return project


def test_killed_campaign_ends_whole_with_every_step_once(tuned: Project) -> None:
    folder = tuned.folder_of("sft/model")
    steps = [json.loads(line)["step"] for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 33))
    assert tuned.athanor("verify", "--deep").returncode == 0
    assert not (folder / "checkpoints").exists()


def test_report_has_the_tasks_loss_before_and_behind(tuned: Project) -> None:
    [task] = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["tasks"]
    assert task["task"] == "files" and task["model"] < task["base"] - 1.0


def test_exported_folder_loads_chats_and_was_asked(tuned: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = tuned.folder_of("export/sft") / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template and model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (tuned.folder_of("answers/sft") / "answers.jsonl").stat().st_size > 0
