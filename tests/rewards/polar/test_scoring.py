"""Scores of texts: the same in any batch and after a kill, and of one model only."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athanor.artifacts.run import StageError
from athanor.rewards.polar.model import marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.scoring import Scorer, Scoring, read_scores, score_into_shards
from athanor.rewards.polar.template import Item


def words(random: np.random.Generator, longest: int) -> str:
    return " ".join(f"w{number}" for number in random.integers(0, 37, size=random.integers(1, longest)))


def items(count: int, seed: int = 0) -> list[Item]:
    random = np.random.default_rng(seed)
    return [Item(words(random, 9), words(random, 40), words(random, 40)) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(routed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with experts, and a head large enough that scores differ."""
    marked, path = marked_tokenizer(routed, 128, fine_tuned=True), tmp_path_factory.mktemp("reward")
    model: Any = reward_model(routed, marked, seed=1)
    with torch.no_grad():
        model.score.weight *= 50
    write_reward_model(model, model.state_dict(), path, marked)
    return path


def test_scores_are_the_same_alone_and_in_a_batch(folder: Path) -> None:
    scorer, some = Scorer(folder), items(40)
    together = scorer.score_items(some)
    assert np.std(together) > 0.1
    for item, score in zip(some, together, strict=True):
        assert scorer.score_items([item])[0] == pytest.approx(score, abs=1e-5)


def test_thoughts_do_not_change_a_score(folder: Path) -> None:
    scorer = Scorer(folder)
    plain, thought = Item("w1", "w2 w3", "w4"), Item("w1", "<think>w9</think>w2 w3", "<think>w8 w8</think>\nw4")
    assert scorer.score_items([plain]) == scorer.score_items([thought])


def test_scoring_goes_on_from_the_shards_that_are_whole(folder: Path, tmp_path: Path) -> None:
    named = [(f"i{number}", item) for number, item in enumerate(items(25))]
    whole = score_into_shards(named, Scoring("model", 10), lambda: Scorer(folder), tmp_path / "whole", lambda *_: None)

    def die_after_one(done: int, _total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_into_shards(named, Scoring("model", 10), lambda: Scorer(folder), tmp_path / "torn", die_after_one)
    (tmp_path / "torn" / "shard-00001.jsonl.partial").write_text("half a li")
    again = score_into_shards(named, Scoring("model", 10), lambda: Scorer(folder), tmp_path / "torn", lambda *_: None)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]
    assert list(read_scores(again)) == [name for name, _ in named]

    def never() -> Scorer:
        raise AssertionError("nothing is left to score")

    assert score_into_shards(named, Scoring("model", 10), never, tmp_path / "torn", lambda *_: None) == again


def test_shards_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    named = [("i", items(1)[0])]
    score_into_shards(named, Scoring("one"), lambda: Scorer(folder), tmp_path, lambda *_: None)
    with pytest.raises(StageError, match=r'"model": "one".*wanted is.*"model": "two"'):
        score_into_shards(named, Scoring("two"), lambda: Scorer(folder), tmp_path, lambda *_: None)


def test_score_that_is_no_number_is_an_error(folder: Path) -> None:
    scorer = Scorer(folder)
    with torch.no_grad():
        scorer._model.score.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="3 of 3 scores are no numbers"):
        scorer.score_items(items(3))
