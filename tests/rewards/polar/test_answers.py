"""Stages `ranks`, `score` and `selection`: answers become ranks, a reward model scores them, and its scores choose."""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.run import Input, Outcome, StageError, StageRun, Stopped
from athanor.data.conversations import Conversation
from athanor.data.documents import JsonlWriter
from athanor.recipe.schema.post_training import Offline, PassRateFilter, Reward, ScoreWeights
from athanor.recipe.schema.recipe import Recipe
from athanor.rewards.polar.model import marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.ranks import is_aside
from athanor.rewards.polar.scoring import Scorer, Scoring
from athanor.rewards.polar.template import Item
from athanor.rewards.scores import REWARDS_FILE, Scores, beside_record, read_rewards
from athanor.stages import ranks, score, selection
from tests.data.conftest import input_of

QUESTIONS, ANSWERS = 30, 4
RECIPE = Recipe(
    seed=3,
    offline=Offline(mixture={"ask": 1}, filter=PassRateFilter(drop_from=1.0, drop_up_to=0.0)),
    reward=Reward(ranks_aside=0.3, ranks_a_question=2),
)


def answers(questions: int = QUESTIONS) -> list[dict[str, Any]]:
    """Scored as stage `rollouts` does: of every question's answers two are right, in other words than the record's."""
    return [
        {
            "task": "ask", "prompt": f"c{question}", "number": number, "question": f"w1 w{question}",
            "expected": f"w{question} w2", "text": f"w{question} w{3 + number}", "right": number < 2,
            "finish": "stop", "tokens": 3, "log_prob": -1.0,
            "scores": {"accuracy": float(number < 2), "fluency": 1.0, "safety": 1.0},
        }
        for question in range(questions)
        for number in range(ANSWERS)
    ]  # fmt: skip


def rolled(folder: Path, rows: Sequence[dict[str, Any]], policy: str = "sft") -> Input:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scored.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return input_of(StageRun(RECIPE, "rollouts", f"ask-{policy}", f"rollouts-{policy}", folder, {}), Outcome(()))


def a_stage(name: str, folder: Path, recipe: Recipe = RECIPE, **inputs: Input) -> StageRun:
    folder.mkdir(parents=True, exist_ok=True)
    return StageRun(recipe, name, "ask-sft", f"{name}-0", folder, inputs)


@pytest.fixture(scope="module")
def judge(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Input:
    """A reward model that learnt nothing."""
    folder = tmp_path_factory.mktemp("judge")
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    model: Any = reward_model(dense, marked, seed=1)
    write_reward_model(model, model.state_dict(), folder / "model", marked)
    return input_of(StageRun(RECIPE, "reward_tune", "model", "judge", folder, {}), Outcome((), {"step": 3}))


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as rows:
        return [json.loads(row) for row in rows]


def test_ranks_have_the_record_first_a_better_answer_second_and_questions_on_one_side_alone(tmp_path: Path) -> None:
    stage = a_stage("ranks", tmp_path / "ranks", one=rolled(tmp_path / "one", answers()))
    outcome = ranks.run(stage)
    learnt, aside = (lines(stage.folder / name) for name in (ranks.LEARNT_FILE, ranks.ASIDE_FILE))
    assert (len(learnt), len(aside)) == (outcome.counters["ranks"], outcome.counters["aside"])
    assert len(learnt) + len(aside) == 2 * QUESTIONS and outcome.counters["level"] == 0
    for side, is_measured in ((learnt, False), (aside, True)):
        for rank in side:
            question = rank["id"].partition("#")[0]
            assert is_aside(question, 0.3, 3) == is_measured
            number = question.removeprefix("ask/c")
            record, winner, loser = rank["answers"]
            assert record == f"w{number} w2" and rank["prompt"] == f"w1 w{number}"
            assert winner in (f"w{number} w3", f"w{number} w4") and loser in (f"w{number} w5", f"w{number} w6")


def test_answers_of_several_models_are_ranked_together(tmp_path: Path) -> None:
    """Each model alone is always right or always wrong, so that neither has an order of its own."""
    right, wrong = ([row for row in answers() if row["right"] is verdict] for verdict in (True, False))
    inputs = {"one": rolled(tmp_path / "one", right), "two": rolled(tmp_path / "two", wrong, "second")}
    assert ranks.run(a_stage("ranks", tmp_path / "ranks", **inputs)).counters["ranks"] > 0
    with pytest.raises(StageError, match=rf"0 ranks to learn from and 0 aside, of {QUESTIONS} questions \({QUESTIONS} without"):
        ranks.run(a_stage("ranks", tmp_path / "none", one=inputs["one"]))


def test_scores_are_the_models_beside_its_score_of_the_record(tmp_path: Path, judge: Input) -> None:
    stage = a_stage("score", tmp_path / "score", model=judge, rollouts=rolled(tmp_path / "rolled", answers()))
    outcome = score.run(stage)
    rewards, scorer = read_rewards(stage.folder / REWARDS_FILE), Scorer(judge.folder / "model")
    for row in answers()[:8]:
        items = [Item(row["question"], row["expected"], text) for text in (row["text"], row["expected"])]
        raw, record = scorer.score_items(items)
        assert rewards[row["prompt"], row["number"]] == pytest.approx(1 / (1 + math.exp(record - raw)), abs=1e-6)
    assert len(rewards) == outcome.counters["answers"] == QUESTIONS * ANSWERS
    page = (stage.folder / "samples.html").read_text()
    assert '"reward": 0.' in page and '"accuracy": 1.0' in page
    chosen = outcome.metrics
    assert chosen["right/any"] == 0.5 and chosen["right/possible"] == 1.0 and 0 <= chosen["right/chosen"] <= 1


def test_stopped_scoring_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, judge: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "Scoring", lambda model: Scoring(model, items_a_shard=40))
    inputs = {"model": judge, "rollouts": rolled(tmp_path / "rolled", answers())}
    whole, torn = a_stage("score", tmp_path / "whole", **inputs), a_stage("score", tmp_path / "torn", **inputs)
    files = score.run(whole).files
    torn._stop.set()
    with pytest.raises(Stopped, match=r"scores of ask-sft after 40 of 150 answers; finished shards are kept"):
        score.run(torn)
    assert score.run(a_stage("score", torn.folder, **inputs)).files == files
    for name in files:
        assert (torn.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_reward_decides_among_right_answers_where_it_counts(tmp_path: Path) -> None:
    asked = tmp_path / "conversations"
    asked.mkdir()
    with JsonlWriter(asked / "train.jsonl.gz") as writer:
        for number in range(QUESTIONS):
            said = [{"role": "user", "content": f"w1 w{number}"}, {"role": "assistant", "content": f"w{number} w2"}]
            writer.write(Conversation(f"c{number}", said).row())
    (tmp_path / "scores").mkdir()
    rewards = [{"prompt": r["prompt"], "number": r["number"], "raw": 0.0, "reward": 0.1 + 0.2 * r["number"]} for r in answers()]
    (tmp_path / "scores" / REWARDS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rewards))
    inputs = {
        "conversations": input_of(StageRun(RECIPE, "conversations", "ask", "c", asked, {}), Outcome(())),
        "rollouts-sft": rolled(tmp_path / "rolled", answers()),
        "scores": input_of(StageRun(RECIPE, "score", "ask-sft", "s", tmp_path / "scores", {}), Outcome(())),
    }
    chosen = {}
    for weight in (0.0, 0.5):
        weighted = replace(RECIPE, offline=replace(RECIPE.offline, weights=ScoreWeights(reward=weight)))
        stage = a_stage("selection", tmp_path / f"selection-{weight}", weighted, **inputs)
        selection.run(stage)
        chosen[weight] = [row["messages"][-1]["content"].split()[1] for row in lines(stage.folder / "best.jsonl.gz")]
    assert set(chosen[0.0]) == {"w3"}, "without it the first of equals"
    assert set(chosen[0.5]) == {"w4"}, "the highest reward of those that are right, not of all"


def test_component_lies_between_zero_and_one_and_is_half_beside_itself() -> None:
    assert beside_record(-7.25, -7.25) == 0.5
    assert beside_record(3.0, 1.0) == pytest.approx(1 / (1 + math.exp(-2))) == pytest.approx(1 - beside_record(1.0, 3.0))
    assert beside_record(-2000.0, 2000.0) == 0.0 and beside_record(2000.0, -2000.0) == 1.0


def test_rows_of_answers_that_no_model_scored_have_no_reward() -> None:
    """As they were written before there was one."""
    assert list(Scores(1.0, 0.5, 1.0).row()) == ["accuracy", "fluency", "safety"]
    assert Scores(1.0, 0.5, 1.0, 0.25).row()["reward"] == 0.25
    weights = ScoreWeights(reward=2.0)
    assert Scores(1.0, 0.5, 1.0, 0.25).total(weights) == Scores(1.0, 0.5, 1.0).total(weights) + 0.5
