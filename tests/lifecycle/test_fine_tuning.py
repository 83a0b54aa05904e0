"""Fine-tuning behind a finished pretraining: nothing before it runs again, and a killed run ends in the same bytes."""

import json
from pathlib import Path

import pytest

from tests.lifecycle.project import Project, recipe, wait_until

pytestmark = pytest.mark.slow

SFT = {
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
    "parallel": {"ranks": 2, "expert": 2},
    "checkpoint": {"every_tokens": 2048},
}
RESULTS = ("curve.jsonl", "validation.json", "validation_start.json")


def with_fine_tuning(project: Project) -> Project:
    """The project's campaign goes on with fine-tuning."""
    project.write_recipe("tiny", recipe() | {"sft": SFT})
    locked = project.athanor("recipe", "lock", "tiny")
    assert locked.returncode == 0, locked.stderr
    return project


@pytest.fixture(scope="module")
def tuned(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Fine-tuned without disturbance."""
    project = with_fine_tuning(finished.copy(tmp_path_factory.mktemp("tuned") / "project"))
    before = {stage for stage in project.to_run() if not stage.startswith(("conversations", "pack", "sft", "answers"))}
    assert before == {"export/sft", "report/campaign"}, "what was trained is not trained again"
    done = project.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_exported_model_chats_by_its_own_template(tuned: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tuned.folder_of("export/sft") / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Name corpus/001.txt"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(answer) > 0


def test_report_has_each_tasks_loss_before_and_behind(tuned: Project) -> None:
    [task] = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["tasks"]
    assert task["task"] == "files" and task["tokens"] > 0
    assert task["model"] < task["base"] - 1.0 and task["shuffled"] is None
    assert (tuned.folder_of("report/campaign") / "figures" / "fine_tuning.svg").is_file()


def test_models_before_and_behind_are_asked_what_was_held_out(tuned: Project) -> None:
    found = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["answers"]
    assert {(row["model"], row["task"]) for row in found} == {("base", "files"), ("sft", "files")}
    lines = [json.loads(line) for line in (tuned.folder_of("answers/sft") / "answers.jsonl").read_text().splitlines()]
    for way in ("greedy", "sampled"):
        [rate] = json.loads((tuned.folder_of("answers/sft") / "pass_rates.json").read_text())[way]
        answers = [line for line in lines if line["way"] == way]
        assert rate["rate"] == pytest.approx(sum(line["right"] for line in answers) / len(answers))
        assert {line["expected"] for line in answers} <= {f"{i:03d}.txt" for i in range(60)}


def test_killed_ranks_of_fine_tuning_end_in_the_same_bytes(tuned: Project, finished: Project, tmp_path: Path) -> None:
    project = with_fine_tuning(finished.copy(tmp_path / "project"))
    driver = project.start_snakemake()
    wait_until(lambda: any(project.store.glob("sft/*/checkpoints/*/state.json")), "a checkpoint")
    assert project.kill_ranks("sft") == 2
    assert driver.wait(timeout=600) == 0, (project.folder / "driver.log").read_text()
    for file in RESULTS:
        assert (project.folder_of("sft/model") / file).read_bytes() == (tuned.folder_of("sft/model") / file).read_bytes(), file
    assert project.athanor("verify", "--deep").returncode == 0
