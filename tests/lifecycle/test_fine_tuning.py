"""Fine-tuning and offline RL behind a finished pretraining: nothing before runs again, and killed runs end in the same bytes."""

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.data.conversations import answer_of, read_conversations
from athanor.data.documents import read_rows
from athanor.rl.online.rounds import Answered, Made, read_ledger, read_round
from tests.lifecycle.post_training import with_fine_tuning, with_megatron_online
from tests.lifecycle.project import Project

pytestmark = pytest.mark.slow

RESULTS = ("curve.jsonl", "validation.json", "validation_start.json")
AFTER = {"conversations", "pack", "average", "sft", "answers", "rollouts", "selection", "offline", "pairs", "preference"}
AFTER |= {"problems", "pool", "online"}
ONLINE = ("ledger.jsonl", "through_training.html", *(f"rounds/{number:05d}.jsonl.gz" for number in range(8)))
ANSWERED = ("scored.jsonl", "best.jsonl.gz", "drawn.jsonl.gz", "selection.json")


@pytest.fixture(scope="module")
def tuned(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Fine-tuned without disturbance."""
    project = with_fine_tuning(finished.copy(tmp_path_factory.mktemp("tuned") / "project"))
    again = {stage.split("/")[0] for stage in project.to_run()} - AFTER
    assert again == {"export", "report"}, "what was trained is not trained again"
    exported = {stage for stage in project.to_run() if stage.startswith("export/")}
    assert all(stage.startswith(("export/sft", "export/offline", "export/preference", "export/online")) for stage in exported)
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
    [task, other] = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["tasks"]
    assert (task["task"], other["task"]) == ("files", "sums") and task["tokens"] > 0
    assert task["model"] < task["base"] - 1.0 and task["shuffled"] is None
    assert (tuned.folder_of("report/campaign") / "figures" / "fine_tuning.svg").is_file()


def test_models_before_and_behind_are_asked_what_was_held_out(tuned: Project) -> None:
    found = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["answers"]
    models = ("base", "sft", "offline", "offline-drawn", "offline-more", "average", "preference")
    models += ("online", "online-shuffled", "online-average")
    tasks = ("files", "sums", "motif_count")  # problems of the registry count by generator
    assert {(row["model"], row["task"]) for row in found} == {(model, task) for model in models for task in tasks}
    lines = [json.loads(line) for line in (tuned.folder_of("answers/sft") / "answers.jsonl").read_text().splitlines()]
    for way in ("greedy", "sampled"):
        [rate, *_] = json.loads((tuned.folder_of("answers/sft") / "pass_rates.json").read_text())[way]
        answers = [line for line in lines if line["way"] == way and line["task"] == "files"]
        assert rate["rate"] == pytest.approx(sum(line["right"] for line in answers) / len(answers))
        assert {line["expected"] for line in answers} <= {f"{i:03d}.txt" for i in range(60)}


def test_table_of_tried_mixtures_has_the_best_first(tuned: Project) -> None:
    tried = json.loads((tuned.folder_of("report/campaign") / "results.json").read_text())["tried"]
    assert {row["name"]: row["mixture"] for row in tried} == {"sums": {"sums": 1.0}, "mixture": {"files": 0.5, "sums": 0.5}}
    assert all(row["gains"].keys() == {"files", "sums"} for row in tried)
    assert tried[0]["mean"] > tried[1]["mean"]
    counted = json.loads((tuned.folder_of("sft/search-sums") / "manifest.json").read_text())["result"]["counters"]
    assert counted["tokens"] == 1024


def test_best_answers_are_right_ones_of_questions_worth_learning(tuned: Project) -> None:
    selection = json.loads((tuned.folder_of("selection/sums") / "selection.json").read_text())
    scored = {model: _scored(tuned, model) for model in ("sft", "sft-second")}
    assert all(len(rows) == 96 * 8 for rows in scored.values())
    assert scored["sft"] != scored["sft-second"]
    learnt = list(read_conversations(tuned.folder_of("selection/sums") / "best.jsonl.gz"))
    assert len(learnt) == selection["kept"] > 0
    for conversation in learnt:
        both = [row for rows in scored.values() for row in rows if row["prompt"] == conversation.id]
        assert selection["pass_rates"][conversation.id] == sum(row["right"] for row in both) / 16 < 1.0
        assert answer_of(conversation) in {r["text"] for r in scored["sft"] if r["prompt"] == conversation.id and r["right"]}
    control = list(read_conversations(tuned.folder_of("selection/sums") / "drawn.jsonl.gz"))
    assert [c.id for c in control] == [c.id for c in learnt] and [c.messages for c in control] != [c.messages for c in learnt]


def test_model_learns_to_prefer_its_right_answers(tuned: Project) -> None:
    folder = tuned.folder_of("preference/model")
    pairs = list(read_rows(tuned.folder_of("pairs/sums") / "pairs.jsonl.gz"))
    right = {(row["prompt"], row["text"]): row["right"] for row in _scored(tuned, "sft")}
    assert pairs and all(right[pair["id"], pair["chosen"]] and not right[pair["id"], pair["rejected"]] for pair in pairs)
    before, behind = (json.loads((folder / f"validation{which}.json").read_text())["sums"] for which in ("_start", ""))
    assert before["nats_per_token"] == pytest.approx(0.5, abs=1e-4) and behind["nats_per_token"] < before["nats_per_token"]
    assert 0 < behind["tokens"] < 2 * len(pairs)


def test_every_answer_of_online_rl_is_learnt_from_once(tuned: Project) -> None:
    folder = tuned.folder_of("online/model")
    made = [read_round(folder, number) for number in range(8)]
    ledger = read_ledger(folder / "ledger.jsonl")
    assert read_round(folder, 8) is None and [row["step"] for row in ledger] == list(range(1, 33))
    learnt = [(row["round"], answer) for row in ledger for answer in row["answers"]]
    worth = {(r.number, a.id) for r in made if r is not None for a in r.answers if a.advantage is not None}
    assert len(learnt) == len(set(learnt)) and set(learnt) == worth
    rounds = [one for one in made if one is not None]
    assert all(len(one.answers) == 8 * 4 for one in rounds)
    assert [one.behind for one in rounds] == [0, *[1] * 7], "answered by the weights of the round before"
    assert [one.weights for one in rounds[1:]] == [one.ahead for one in rounds[:-1]]
    assert len({one.weights for one in rounds}) > 1, "a round that teaches nothing leaves them as they are, not all do"
    assert {answer.task for one in rounds for answer in one.answers} >= {"sums", "files"}
    drawn_by = [[by for _, by in answer.spans] for one in rounds for answer in one.answers if answer.advantage is not None]
    assert max(map(len, drawn_by)) == 2 and any(len(set(two)) == 2 for two in drawn_by), "answers of two rounds' weights"
    assert all(sum(size for size, _ in a.spans) == len(a.tokens) for one in rounds for a in one.answers)
    assert all(len(a.tokens) <= (8 if a.finish != "open" else 4) for one in rounds for a in one.answers)
    assert all(math.isclose(sum(a.advantage or 0.0 for a in g), 0.0, abs_tol=1e-9) for one in rounds for g in _groups(one))
    assert (folder / "through_training.html").read_text().count("<article") == 4


def _groups(made: Made) -> list[list[Answered]]:
    return [[answer for answer in made.answers if answer.slot == slot] for slot in range(8)]


def test_average_is_the_mean_of_the_last_points(tuned: Project) -> None:
    from safetensors.torch import load_file

    folders = [tuned.folder_of(name) / "model" for name in ("export/offline-2048", "export/offline", "average/offline")]
    one, other, mean = (load_file(folder / "model.safetensors") for folder in folders)
    assert mean.keys() == one.keys()
    for name, weight in mean.items():
        assert torch.equal(weight, ((one[name].double() + other[name].double()) / 2).to(weight.dtype)), name
    assert not all(torch.equal(one[name], other[name]) for name in mean)


def test_mean_of_online_rl_is_that_of_the_ends_of_its_last_rounds(tuned: Project) -> None:
    from safetensors.torch import load_file

    trained, mean = tuned.folder_of("online/model"), tuned.folder_of("average/online") / "model"
    folders = [*sorted((trained / "points").iterdir()), trained]
    assert [folder.name for folder in folders[:-1]] == ["00006", "00007"]
    weights = [load_file(folder / "model" / "model.safetensors") for folder in folders]
    for name, weight in load_file(mean / "model.safetensors").items():
        expected = sum((one[name].double() for one in weights), torch.zeros(())) / 3
        assert torch.equal(weight, expected.to(weight.dtype)), name
    assert not all(torch.equal(weights[0][name], weights[-1][name]) for name in weights[0])
    assert not (tuned.folder_of("online/shuffled") / "points").exists()


def _scored(project: Project, model: str) -> list[dict[str, Any]]:
    lines = (project.folder_of(f"rollouts/sums-{model}") / "scored.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_killed_ranks_of_post_training_end_in_the_same_bytes(tuned: Project, finished: Project, tmp_path: Path) -> None:
    project = with_fine_tuning(finished.copy(tmp_path / "project"))
    driver = project.start_snakemake()
    signs = {  # by which a stage is under way; the scheduler decides which comes first
        "sft": "sft/*/checkpoints/*/state.json",
        "rollouts": "rollouts/*",  # most likely while it imports
        "offline": "offline/*/checkpoints/*/state.json",
        "online": "online/*/rounds/00002.jsonl.gz",  # there are saves
    }
    struck = set[str]()
    while driver.poll() is None:
        for stage in signs.keys() - struck:
            if any(project.store.glob(signs[stage])) and project.kill_ranks(stage):
                struck.add(stage)
        time.sleep(0.02)
    assert driver.returncode == 0, (project.folder / "driver.log").read_text()
    assert struck >= {"sft", "rollouts", "online"}, "offline may have just ended"
    made = {
        "sft/model": RESULTS,
        "offline/2048": RESULTS,
        "offline/model": RESULTS[:2],  # it goes on from an earlier point of its own
        "offline/more": RESULTS,
        "preference/model": RESULTS,
        "rollouts/sums-sft": ANSWERED[:1],
        "pool/online": ("pool.jsonl.gz", "families.json"),
        "online/model": (*RESULTS, *ONLINE),
        "online/shuffled": (*RESULTS, *ONLINE),
    }
    for artifact, files in (made | {"selection/sums": ANSWERED[1:]}).items():
        for file in files:
            one, other = (p.folder_of(artifact) / file for p in (project, tuned))
            assert one.read_bytes() == other.read_bytes(), (artifact, file)
    logs = _logs(project, "online/model") + _logs(project, "online/shuffled")  # whichever came first
    told = re.findall(r"at most (\S+) nats from those at the save, over (\d+)", logs)
    assert told and all(float(jump) == 0 and int(tokens) > 0 for jump, tokens in told), "no jump across a resume"
    assert project.athanor("verify", "--deep").returncode == 0


def test_megatron_learns_online_and_killed_ranks_end_in_the_same_bytes(tuned: Project, tmp_path: Path) -> None:
    whole, struck = (with_megatron_online(tuned.copy(tmp_path / name)) for name in ("whole", "struck"))
    done = whole.snakemake("--until", "learn_online")
    assert done.returncode == 0, done.stdout + done.stderr
    before = set(struck.store.glob("online/*"))
    driver = struck.start_snakemake("--until", "learn_online")
    while driver.poll() is None:
        [new] = (set(struck.store.glob("online/*")) - before) or [struck.store / "online"]
        if (new / "rounds" / "00002.jsonl.gz").exists() and struck.kill_ranks("online"):
            break
        time.sleep(0.02)
    assert driver.wait() == 0, (struck.folder / "driver.log").read_text()
    for file in (*RESULTS, *ONLINE):
        one, other = (project.folder_of("online/model") / file for project in (whole, struck))
        assert one.read_bytes() == other.read_bytes(), file
    told = re.findall(r"at most (\S+) nats from those at the save, over (\d+)", _logs(struck, "online/model"))
    assert told and all(float(jump) == 0 and int(tokens) > 0 for jump, tokens in told), "no jump across a resume"
    ledger = [json.loads(line) for line in (whole.folder_of("online/model") / "ledger.jsonl").read_text().splitlines()]
    learnt = [(row["round"], answer) for row in ledger for answer in row["answers"]]
    assert learnt and len(learnt) == len(set(learnt))


def _logs(project: Project, artifact: str) -> str:
    return "".join(path.read_text() for path in sorted(project.folder_of(artifact).glob("attempts/*/rank-0.log")))
