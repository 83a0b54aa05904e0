"""A campaign that hands online RL over to TRL, is killed on the way, and ends as any: asked, reported and with its ancestry."""

import json
import shutil
from typing import Any

import pytest

from athanor.tracking.destination import Destination
from tests.lifecycle import post_training
from tests.lifecycle.project import CHECKOUT, Project, recipe, wait_until

pytestmark = pytest.mark.slow

SCRIPT = "examples/trl/online.py"
SFT = {key: value for key, value in post_training.SFT.items() if key != "search"}
SFT |= {"mixture": {"sums": 1}, "tasks": {"sums": post_training.SFT["tasks"]["sums"]}}  # type: ignore[index]
ONLINE = {
    "start": "sft",
    "mixture": {"sums": 1},
    "pool": 48,
    "probes": 4,
    "filter": {"drop_up_to": 0.0},
    "prompts": 4,
    "samples": 4,
    "max_new_tokens": 8,
    "watched": 4,
    "sequence_length": 256,
    "token_budget": 8 * 4 * 4 * 256,
    "external": {
        "command": f"python {SCRIPT} {{handover}}",
        "files": [SCRIPT],
        "version": "python -c \"import trl; print('trl', trl.__version__)\"",
        "settings": {"learning_rate": 1e-4, "steps_a_round": 2},
    },
}
STEPS = 16


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole campaign, whose stage was killed behind the trainer's first checkpoint."""
    project = Project.make(tmp_path_factory.mktemp("handed") / "project")
    shutil.copytree(CHECKOUT / "examples", project.folder / "examples")
    small: dict[str, Any] = recipe()
    small["data"]["licences_allowed"].append("Apache-2.0")
    small["data"]["sources"]["sums"] = post_training.SUMS
    small["pretrain"] |= {"token_budget": 8192, "milestone_tokens": []}
    project.write_recipe("tiny", {**small, "sft": SFT, "online": ONLINE})
    locked = project.athanor("recipe", "lock", "tiny")
    assert locked.returncode == 0, locked.stderr
    driver = project.start_snakemake()
    wait_until(lambda: any(project.store.glob("online/*/external/checkpoints/*/trainer_state.json")), "a checkpoint of TRL's")
    assert project.kill_ranks("online") >= 1
    assert driver.wait(timeout=900) == 0, (project.folder / "driver.log").read_text()
    return project


def test_killed_campaign_goes_on_from_the_trainers_checkpoint(handed: Project) -> None:
    folder = handed.folder_of("online/model")
    first, second = (
        [json.loads(line)["step"] for line in (folder / "external" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("001", "002")
    )
    assert first[0] == 1 and 2 < second[0] <= first[-1] + 1, "not from the beginning"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line or "loss" in line] == list(range(1, STEPS + 1))
    assert lines[-1]["tokens"] == ONLINE["token_budget"] and any("reward" in line for line in lines)
    assert handed.athanor("verify", "--deep").returncode == 0


def test_manifest_names_the_trainer(handed: Project) -> None:
    manifest = handed.manifest("online/model")
    trainer = manifest["provenance"]["trainer"]
    assert trainer["command"] == ONLINE["external"]["command"] and trainer["version"].startswith("trl ")  # type: ignore[index]
    assert len(trainer[SCRIPT]) == 64
    assert manifest["result"]["counters"] == {"step": STEPS, "tokens": ONLINE["token_budget"], "answers": STEPS * 8}
    assert "trainer" not in handed.manifest("sft/model")["provenance"]


def test_what_it_made_is_exported_asked_and_reported(handed: Project) -> None:
    from safetensors.torch import load_file

    results = json.loads((handed.folder_of("report/campaign") / "results.json").read_text())
    assert {"base", "sft", "online"} == {row["model"] for row in results["answers"]}
    [told] = results["handed_over"]
    assert (told["model"], told["steps"]) == ("online/model", STEPS) and "online" not in results
    page = (handed.folder_of("report/campaign") / "summary.html").read_text()
    assert "Handed over to an external trainer" in page and SCRIPT in page
    start, learnt = (load_file(handed.folder_of(f"export/{name}") / "model" / "model.safetensors") for name in ("sft", "online"))
    assert any(not (start[name] == learnt[name]).all() for name in start), "it has learnt"


def test_lineage_names_the_trainer(handed: Project) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(Destination(handed.store).uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    fingerprint = handed.manifest("online/model")["result"]["fingerprint"]
    [found] = client.search_runs(experiments, f"tags.fingerprint = '{fingerprint}' and attributes.status = 'FINISHED'")
    run = client.get_run(found.info.run_id)
    assert run.data.params["trainer.version"].startswith("trl ") and SCRIPT in run.data.params["trainer.command"]
    assert "reward" in run.data.metrics
    [model] = [client.get_logged_model(model.model_id) for model in run.outputs.model_outputs]
    assert SCRIPT in model.params["trainer"] and model.params["tokens"] == str(ONLINE["token_budget"])
    before = handed.manifest("export/sft")["result"]["fingerprint"]
    [start] = client.search_runs(experiments, f"tags.fingerprint = '{before}' and attributes.status = 'FINISHED'")
    [parent] = [made.model_id for made in client.get_run(start.info.run_id).outputs.model_outputs]
    assert parent in [used.model_id for used in run.inputs.model_inputs]
