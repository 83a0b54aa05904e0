"""A dense campaign whose fine-tuning and offline RL go through DeepSpeed: from the exported folder to answers, killed on the way;
and one beside it that trains adapters on the same base."""

import json
from pathlib import Path
from typing import Any

import pytest

from athanor.tracking.destination import Destination
from tests.lifecycle import post_training
from tests.lifecycle.project import Project, recipe, wait_until

pytestmark = pytest.mark.slow

ADAPTED, PROMPTED = "adapted", "prompted"
TOKENS = 8  # virtual ones
BETWEEN = (("sft/model", "validation.json"), ("offline/2048", "validation_start.json"))

SFT = {
    **{key: value for key, value in post_training.SFT.items() if key != "search"},
    "backend": "deepspeed",
    "zero": {"stage": 3},
    "parallel": {"ranks": 2},
}
OFFLINE = {**post_training.OFFLINE, "second_model": False, "average": 0, "zero": {"stage": 1}, "parallel": {"ranks": 2}}
PREFERENCE = {**post_training.PREFERENCE, "token_budget": 2048}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole campaign, whose ranks were killed behind their first save."""
    project = Project.make(tmp_path_factory.mktemp("deepspeed") / "project")
    _write(project, "tiny", {"sft": SFT, "offline": OFFLINE, "preference": PREFERENCE})
    driver = project.start_snakemake()
    wait_until(lambda: any(project.store.glob("sft/*/checkpoints/*/state.json")), "a checkpoint")
    assert project.kill_ranks("sft") == 2
    wait_until(lambda: any(project.store.glob("offline/*/checkpoints/*/state.json")), "a checkpoint of offline RL")
    project.kill_ranks("offline")  # none where it has just ended
    assert driver.wait(timeout=600) == 0, (project.folder / "driver.log").read_text()
    return project


def _write(project: Project, name: str, sections: dict[str, Any]) -> None:
    small: dict[str, Any] = recipe()
    small["data"]["licences_allowed"].append("Apache-2.0")
    small["data"]["sources"]["sums"] = post_training.SUMS
    small["model"] |= {"num_experts": 0, "vocab_size": 320 + TOKENS, "max_sequence_length": 64 + TOKENS}
    pretrain = {**small["pretrain"], "token_budget": 8192, "milestone_tokens": [], "parallel": {"micro_batch_size": 4}}
    project.write_recipe(name, {**small, "pretrain": pretrain, **sections})
    locked = project.athanor("recipe", "lock", name)
    assert locked.returncode == 0, locked.stderr


@pytest.fixture(scope="module")
def adapted(tuned: Project) -> Project:
    """A second campaign of the same base, which trains adapters."""
    adapters = {"zero": {"stage": 2}, "token_budget": 8192, "lr": 2e-2, "min_lr": 2e-3, "peft": {"kind": "lora", "rank": 4}}
    _write(tuned, ADAPTED, {"sft": {**SFT, "mixture": {"files": 1}, **adapters}})
    assert {name.split("/")[0] for name in tuned.to_run(f"recipe={ADAPTED}")} == {"sft", "export", "answers", "report"}
    done = tuned.snakemake("--config", f"recipe={ADAPTED}")
    assert done.returncode == 0, done.stdout + done.stderr
    return tuned


@pytest.fixture(scope="module")
def prompted(adapted: Project) -> Project:
    """A third, which trains virtual tokens."""
    vectors = {"token_budget": 8192, "lr": 0.3, "min_lr": 0.03, "peft": {"kind": "prompt", "tokens": TOKENS}}
    _write(adapted, PROMPTED, {"sft": {**SFT, "mixture": {"files": 1}, "optimizer": {"weight_decay": 0.0}, **vectors}})
    done = adapted.snakemake("--config", f"recipe={PROMPTED}")
    assert done.returncode == 0, done.stdout + done.stderr
    return adapted


def test_killed_campaign_ends_whole_with_every_step_once(tuned: Project) -> None:
    folder = tuned.folder_of("sft/model")
    steps = [json.loads(line)["step"] for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 33))
    assert tuned.athanor("verify", "--deep").returncode == 0
    assert not (folder / "checkpoints").exists()


def test_report_has_the_tasks_loss_before_and_behind(tuned: Project) -> None:
    [task, other] = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["tasks"]
    assert (task["task"], other["task"]) == ("files", "sums")
    assert task["model"] < task["base"] - 1.0 and other["model"] < other["base"]


def test_offline_rl_goes_on_from_the_fine_tuned_weights_through_its_points(tuned: Project) -> None:
    """In float32, without the exports between, to the end of the budget, every step once; the controls beside it."""
    steps, folder = [], tuned.folder_of("offline/model")
    for name in ("offline/2048", "offline/model"):
        steps += [json.loads(line)["step"] for line in (tuned.folder_of(name) / "curve.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))
    before, behind = (_losses(tuned.folder_of(name), file) for name, file in BETWEEN)
    assert before == behind, "what fine-tuning left is what offline RL measures first"
    assert _losses(folder, "validation.json") != before and not (folder / "validation_start.json").exists()
    upstreams = tuned.manifest("offline/model")["result"]["upstreams"]
    assert upstreams["start"]["fingerprint"] == tuned.manifest("offline/2048")["result"]["fingerprint"]
    learnt = {name: tuned.manifest(f"offline/{name}")["result"]["counters"] for name in ("model", "drawn", "more")}
    assert {counters["tokens"] for counters in learnt.values()} == {4096}, "controls learn as many tokens"


def test_models_behind_offline_rl_are_asked_with_its_controls(tuned: Project) -> None:
    found = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["answers"]
    models = ("base", "sft", "offline", "offline-drawn", "offline-more", "preference")
    assert {(row["model"], row["task"]) for row in found} == {(model, task) for model in models for task in ("files", "sums")}


def _losses(folder: Path, file: str) -> dict[str, float]:
    return {task: loss["nats_per_token"] for task, loss in json.loads((folder / file).read_text()).items()}


def test_exported_folder_loads_chats_and_was_asked(tuned: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = tuned.folder_of("export/sft") / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template and model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (tuned.folder_of("answers/sft") / "answers.jsonl").stat().st_size > 0


def test_adapter_learns_is_merged_in_the_export_and_was_asked(adapted: Project) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trained, exported = (adapted.folder_of(name, ADAPTED) / "model" for name in ("sft/model", "export/sft"))
    base = _base(adapted) / "model"
    assert (trained / "adapter" / "adapter_config.json").is_file() and not (exported / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(exported)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=merged.dtype), str(trained / "adapter"))
    tokens = torch.arange(32)[None] + 7
    with torch.no_grad():
        logits = [model(input_ids=tokens).logits.float() for model in (merged, beside)]
    with beside.disable_adapter(), torch.no_grad():
        before = beside(input_ids=tokens).logits.float()
    assert (logits[0] - logits[1]).abs().max() < 0.1 * (logits[0] - before).abs().max()
    [task] = json.loads((adapted.folder_of("report/campaign", ADAPTED) / "results.json").read_text())["tasks"]
    assert task["model"] < task["base"] - 0.2
    assert (adapted.folder_of("answers/sft", ADAPTED) / "answers.jsonl").stat().st_size > 0
    assert adapted.athanor("verify", "--deep").returncode == 0


def test_virtual_tokens_learn_are_in_the_export_and_begin_what_is_asked(prompted: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = prompted.folder_of("export/sft", PROMPTED) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(exported)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Name"}], add_generation_prompt=True, return_dict=True)
    assert asked["input_ids"][:TOKENS] == list(range(320, 320 + TOKENS))
    base = AutoModelForCausalLM.from_pretrained(_base(prompted, PROMPTED) / "model")
    changed = (model.get_input_embeddings().weight != base.get_input_embeddings().weight).any(dim=1)
    assert changed.nonzero().flatten().tolist() == list(range(320, 320 + TOKENS)), "nothing else was trained"
    [task] = json.loads((prompted.folder_of("report/campaign", PROMPTED) / "results.json").read_text())["tasks"]
    assert task["model"] < task["base"] - 0.05
    assert (prompted.folder_of("answers/sft", PROMPTED) / "answers.jsonl").stat().st_size > 0


def test_adapter_is_a_child_of_its_base_in_mlflow(adapted: Project) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(Destination(adapted.store).uri)
    base = _base(adapted).name
    trained = adapted.manifest("sft/model", ADAPTED)["result"]["fingerprint"]
    run, of_base = (_run(client, fingerprint) for fingerprint in (trained, base))
    [parent] = [model.model_id for model in of_base.outputs.model_outputs]
    assert parent in [model.model_id for model in run.inputs.model_inputs]
    [child] = [client.get_logged_model(model.model_id) for model in run.outputs.model_outputs]
    assert child.params["peft"] == "lora" and child.params["adapter_of"] == base
    assert child.source_run_id == run.info.run_id


def _base(project: Project, campaign: str = ADAPTED) -> Path:
    """The folder of the export that all trainings start from."""
    upstreams = project.manifest("sft/model", campaign)["result"]["upstreams"]
    assert upstreams["start"] == project.manifest("sft/model")["result"]["upstreams"]["start"]
    return project.store / "export" / upstreams["start"]["fingerprint"]


def _run(client: Any, fingerprint: str) -> Any:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(experiments, f"tags.fingerprint = '{fingerprint}' and attributes.status = 'FINISHED'")
    return client.get_run(run.info.run_id)
