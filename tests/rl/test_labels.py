"""Stages `labels`, `curation` and `pack` one behind the other on a small model: what is asked, learnt and never touched."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.run import Input, Outcome, StageError, StageRun, Stopped
from athanor.data.bpe import save, train
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, Conversation, question_of, read_conversations
from athanor.data.documents import JsonlWriter, read_rows
from athanor.data.packing import PackedWindows
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.schema.choices import Difficulty
from athanor.recipe.schema.post_training import Labels, Sft, SftTask, Turn
from athanor.recipe.schema.recipe import Data, Model, Recipe, Tokenizer
from athanor.rl.difficulty import LABELS_FILE, PASS_RATES_FILE
from athanor.rl.rollouts import shards
from athanor.stages import asking, conversations, curation, labels, pack
from tests.data.conftest import input_of, make_source

RECORDS = 160
WORDS = (
    "yes",
    "yes",
    "no",
    "never",
)  # what is right, of four questions; the model says yes often, no seldom and never nothing else
TASK = SftTask(source="asked", turns=[Turn(prompts=["Is {n} so?", "So: {n}?", "{n}, is it?"], response="{word}")])
RECIPE = Recipe(
    seed=3,
    data=Data(held_out_fraction=0.2, split_seed=3, sources={"asked": make_source(path="asked.jsonl", template="{n}")}),
    tokenizer=Tokenizer(vocab_size=300),
    model=Model(max_sequence_length=64),
    sft=Sft(
        tasks={"ask": replace(TASK, taxonomy=["language", "logic", "verdicts"])},
        mixture={"ask": 1.0},
        sequence_length=128,
        labels=Labels(by="ask", tasks=["ask"], questions=100, samples=8, max_new_tokens=4, repeats={"hard": 3}),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With the task's source, which is what relative paths start at."""
    folder = tmp_path_factory.mktemp("labels")
    rows = [{"n": f"{n:03d}", "word": WORDS[n % 4]} for n in range(RECORDS)]
    (folder / "asked.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATHANOR_PROJECT", str(folder))
        yield folder


def a_stage(name: str, folder: Path, recipe: Recipe = RECIPE, instance: str = "ask", **inputs: Input) -> StageRun:
    folder.mkdir(parents=True, exist_ok=True)
    return StageRun(recipe, name, instance, f"{name}-0", folder, inputs)


def made(stage: StageRun, module: Any) -> Input:
    return input_of(stage, module.run(stage))


@pytest.fixture(scope="module")
def asked(folder: Path) -> Input:
    """The task's conversations."""
    return made(a_stage("conversations", folder / "conversations"), conversations)


@pytest.fixture(scope="module")
def model(folder: Path) -> Input:
    """Two layers that learnt to say yes three times in four and no once, whatever is asked."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    weights = folder / "model" / MODEL_FOLDER
    weights.mkdir(parents=True)
    save(train(["Is so: it? yes no never", *map(str, range(200))], RECIPE.tokenizer), RECIPE.tokenizer, weights)
    torch.manual_seed(1)
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 16, "num_attention_heads": 2}
    config = Qwen3Config(**shape, num_key_value_heads=1, vocab_size=300, max_position_embeddings=64)
    network: Any = Qwen3ForCausalLM(config)
    said = [[{"role": "user", "content": f"Is {n:03d} so?"}, {"role": "assistant", "content": word}]
            for n, word in enumerate(("yes", "yes", "yes", "no") * 4)]  # fmt: skip
    coded = list(ChatEncoder(weights).encode([Conversation(str(n), messages) for n, messages in enumerate(said)]))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        total = torch.zeros(())
        for one in coded:
            ids = torch.tensor([one.ids])
            learnt = torch.where(torch.tensor([one.counts]).bool(), ids, -100)
            total = total + network(input_ids=ids, labels=learnt).loss / len(coded)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    network.save_pretrained(weights)
    return input_of(StageRun(RECIPE, "export", "sft-search-ask", "weights", weights.parent, {}), Outcome((), {"step": 60}))


@pytest.fixture(scope="module")
def labelled(folder: Path, asked: Input, model: Input) -> Input:
    """How often the model answers each question right."""
    return made(a_stage("labels", folder / "labels", model=model, conversations=asked), labels)


def test_pass_rates_are_those_of_every_question_and_the_page_shows_them(labelled: Input, asked: Input) -> None:
    rows = list(read_rows(labelled.folder / PASS_RATES_FILE))
    first = [c.id for c in read_conversations(asked.folder / TRAINING_FILE)][:100]
    assert sorted(row["id"] for row in rows) == sorted(first) and {row["samples"] for row in rows} == {8}
    answer = {c.id: c.messages[1]["content"] for c in read_conversations(asked.folder / TRAINING_FILE)}
    mean = {word: _mean([row["right"] / 8 for row in rows if answer[row["id"]] == word]) for word in WORDS}
    assert mean["yes"] > 0.5 > mean["no"] > 0 == mean["never"]
    assert labelled.counters["right"] == sum(row["right"] for row in rows)
    assert '"pass_rate": 0.' in (labelled.folder / "samples.html").read_text()


def test_stopped_labels_go_on_and_end_in_the_same_bytes(
    folder: Path, asked: Input, model: Input, labelled: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "Order", lambda model, sampling: shards.Order(model, sampling, prompts_a_shard=40))
    torn = a_stage("labels", folder / "torn", model=model, conversations=asked)
    torn._stop.set()
    with pytest.raises(Stopped, match="labels of ask after 40 of 100 questions; finished shards are kept"):
        labels.run(torn)
    outcome = labels.run(a_stage("labels", torn.folder, model=model, conversations=asked))
    assert outcome.counters == labelled.counters
    rows = [sorted(map(str, read_rows(where / PASS_RATES_FILE))) for where in (torn.folder, labelled.folder)]
    assert rows[0] == rows[1], "what is drawn follows from seed, question and number"


def test_hard_questions_alone_are_repeated_each_time_in_other_words(folder: Path, asked: Input, labelled: Input) -> None:
    stage = a_stage("curation", folder / "curation", conversations=asked, labels=labelled)
    outcome = curation.run(stage)
    levels = {row["id"]: Difficulty(row["difficulty"]) for row in read_rows(stage.folder / LABELS_FILE)}
    hard = {question for question, level in levels.items() if level is Difficulty.HARD}
    once = list(read_conversations(asked.folder / TRAINING_FILE))
    learnt = list(read_conversations(stage.folder / TRAINING_FILE))
    assert learnt[: len(once)] == once and hard
    assert Counter(c.id for c in learnt[len(once) :]) == dict.fromkeys(hard, 2)
    by_id = {question: [c for c in learnt if c.id == question] for question in hard}
    for said in by_id.values():
        assert len({str(question_of(c)[0]) for c in said}) == 3, "as many phrasings as the task has"
        assert len({c.messages[1]["content"] for c in said}) == 1 and [c.repeat for c in said] == [0, 1, 2]
    assert outcome.counters["repeats"] == outcome.counters["rephrased"] == 2 * len(hard)
    assert outcome.counters["unlabelled"] == len(once) - 100
    held_out = {c.id for c in read_conversations(asked.folder / HELD_OUT_FILE)}
    assert held_out and not held_out & ({c.id for c in learnt} | levels.keys())
    again = a_stage("curation", folder / "curation-again", conversations=asked, labels=labelled)
    assert curation.run(again) == outcome
    for name in outcome.files:
        assert (again.folder / name).read_bytes() == (stage.folder / name).read_bytes()


def test_dropped_level_is_not_learnt_but_what_was_not_asked_is(folder: Path, asked: Input, labelled: Input) -> None:
    recipe = changed(drop=[Difficulty.UNSOLVED], floor=0.0, repeats={})
    stage = a_stage("curation", folder / "dropped", recipe, conversations=asked, labels=labelled)
    outcome = curation.run(stage)
    never = {row["id"] for row in read_rows(stage.folder / LABELS_FILE) if not row["pass_rate"]}
    once = [c.id for c in read_conversations(asked.folder / TRAINING_FILE)]
    assert [c.id for c in read_conversations(stage.folder / TRAINING_FILE)] == [c for c in once if c not in never]
    assert outcome.counters["dropped"] == len(never) > 0 and outcome.counters["repeats"] == 0


def test_task_of_which_nothing_is_left_says_what_to_change(folder: Path, asked: Input, labelled: Input, tmp_path: Path) -> None:
    few = input_of(a_stage("conversations", tmp_path / "few"), Outcome(()))
    with JsonlWriter(few.folder / TRAINING_FILE) as writer:
        for conversation in islice(read_conversations(asked.folder / TRAINING_FILE), 5):
            writer.write(conversation.row())
    recipe = changed(drop=list(Difficulty), floor=0.0, repeats={})
    stage = a_stage("curation", tmp_path / "none", recipe, conversations=few, labels=labelled)
    with pytest.raises(StageError, match=r"ask: nothing is left to learn from, all 100 questions are of sft.labels.drop"):
        curation.run(stage)


def test_packs_of_what_was_curated_hold_the_repeats_and_the_control_too(
    folder: Path, asked: Input, labelled: Input, model: Input
) -> None:
    curated = made(a_stage("curation", folder / "to-pack", conversations=asked, labels=labelled), curation)
    tokenizer = Input(model.folder / MODEL_FOLDER, model.manifest)
    counted = {}
    for instance in ("ask-curated", "ask-shuffled"):
        stage = a_stage("pack", folder / instance, instance=instance, conversations=curated, tokenizer=tokenizer)
        counted[instance] = pack.run(stage).counters
        assert PackedWindows(stage.folder / "train", 128).windows == counted[instance]["windows"]
        assert not (stage.folder / "held_out").exists(), "what is held out is packed once, with the task's own"
    assert {counters["conversations"] for counters in counted.values()} == {curated.counters["conversations"]}
    assert counted["ask-curated"]["response_tokens"] != 0


def changed(**keys: Any) -> Recipe:
    return replace(RECIPE, sft=replace(RECIPE.sft, labels=replace(RECIPE.sft.labels, **keys)))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
