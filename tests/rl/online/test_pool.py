"""Which prompts are left to learn from: none too easy or too hard, and of every family a floor."""

import json
from pathlib import Path

import pytest

from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, StageRun
from athanor.data.bpe import save, train
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, Conversation
from athanor.data.documents import JsonlWriter, read_rows
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.finetuning import TURN_ENDS
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.post_training import PassRateFilter
from athanor.recipe.schema.recipe import Recipe, Tokenizer
from athanor.rl.online.families import Family
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE, Pooled
from athanor.stages import pool
from athanor.stages.rewarding import script_share

MADE = Manifest(Result("made", "one", "0" * 16, {}, ()), Provenance("", 1, 0.0, 0.0, "", ""))


def a_stage(folder: Path, asked: dict[str, tuple[str, str]]) -> StageRun:
    """Stage `pool` of one task, with these questions and answers to learn from and held out, and a tokenizer of 300 tokens."""
    model, task = folder / "export", folder / "ask"
    for path in (model / MODEL_FOLDER, task):
        path.mkdir(parents=True)
    recipe = Tokenizer(vocab_size=300)
    save(train(["What is 1 + 1? Say twice."], recipe), recipe, model / MODEL_FOLDER)
    for name in (TRAINING_FILE, HELD_OUT_FILE):
        with JsonlWriter(task / name) as writer:
            for number, (question, answer) in asked.items():
                said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                writer.write(Conversation(number, said).row())
    inputs = {name: Input(path, MADE) for name, path in (("model", model), ("ask", task))}
    online = Online(mixture={"ask": 1}, sequence_length=256, probes=0, ngram=0)
    return StageRun(Recipe(name="t", online=online), "pool", "online", "0" * 16, folder, inputs)


def family(rates: list[float | None], prompts: int | None = None) -> Family:
    asked = [{"role": "user", "content": "?"}]
    fitting = [Pooled(f"sums/{n}", "sums", "sums", Route.VERIFIER, asked, [], "1", {}, rate) for n, rate in enumerate(rates)]
    asked = prompts or len(rates)
    return Family(asked, asked - len(rates), 0, fitting)


def kept(found: Family, **rule: float) -> list[float | None]:
    return [prompt.pass_rate for prompt in found.kept(PassRateFilter(**rule))]


def test_easy_hard_and_unanswered_prompts_are_left_out_and_counted() -> None:
    found = family([0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.0], prompts=10)
    assert kept(found, floor=0.0) == [0.5, 0.75]
    assert found.counters(PassRateFilter(floor=0.0)) == {
        "prompts": 10, "special_tokens": 0, "contaminated": 3, "too_long": 0, "unanswered": 1, "easy": 2, "hard": 2,
        "kept_by_floor": 0, "kept": 2,
    }  # fmt: skip


def test_weak_family_keeps_a_floor_of_what_it_ever_answered_right_the_least_hard_first() -> None:
    found = family([0.0, 0.0, 0.125, 0.125, 0.25, 0.25])
    assert kept(found, floor=0.5) == [0.25, 0.25]
    counted = found.counters(PassRateFilter(floor=0.5))
    assert counted["kept_by_floor"] == 2 and counted["hard"] == 2
    assert kept(family([0.0, 0.125, 0.25]), floor=1.0) == [0.125, 0.25]
    assert kept(family([0.0, 0.0]), floor=1.0) == [], "nothing can be learnt of what is never right"


def test_prompts_that_nobody_measured_are_all_kept() -> None:
    assert kept(family([None, None])) == [None, None]


def test_prompt_that_names_a_special_token_is_left_out_of_the_pool_and_counted(tmp_path: Path) -> None:
    stage = a_stage(
        tmp_path,
        {
            "plain": ("What is 1 + 1?", "2"),
            "ends a turn": (f"Say {TURN_ENDS} twice.", "no"),
            "in the answer": ("Pad.", "<|pad|>"),
        },
    )
    outcome = pool.run(stage)
    [row] = json.loads((tmp_path / pool.FAMILIES_FILE).read_text())
    assert (row["prompts"], row["special_tokens"], row["too_long"], row["kept"]) == (3, 2, 0, 1)
    assert outcome.counters["special_tokens"] == 2
    for name in (POOL_FILE, WATCHED_FILE):
        assert [row["id"] for row in read_rows(tmp_path / name)] == ["ask/plain"]


@pytest.mark.parametrize(
    ("text", "like", "share"),
    [("abc", "xyz", 1.0), ("абв", "xyz", 0.0), ("ab вг", "xyz", 0.5), ("12", "xyz", 1.0), ("абв", "12", 1.0), ("", "a", 1.0)],
)
def test_script_of_an_answer_is_that_of_the_record(text: str, like: str, share: float) -> None:
    assert script_share(text, like) == share
