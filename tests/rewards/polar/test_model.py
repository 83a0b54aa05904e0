"""The reward model: its head reads the last token, its folder gives the same scores, its loss is Bradley and Terry's."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.rewards.polar.model import load_reward_model, marked_tokenizer, reward_model, write_reward_model
from athanor.rewards.polar.pairs import TripleReader, bradley_terry, padded, pair_loss
from tests.rewards.polar.conftest import triples

BACKBONES = ("dense", "routed")


@pytest.mark.parametrize("name", BACKBONES)
def test_score_is_the_head_on_the_reward_token_whatever_is_padded(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    marked = marked_tokenizer(folder, 128, fine_tuned=False)
    model: Any = reward_model(folder, marked, seed=1).eval()
    rows = [marked.template.sequence(t.prefix, t.reference, t.candidate) for t in triples(5)]
    with torch.inference_mode():
        together = model(**padded([*rows, [5] * 60], marked.padding)).logits[:5, 0]
        for row, score in zip(rows, together, strict=True):
            states = model.model(input_ids=torch.tensor([row])).last_hidden_state
            assert torch.allclose(model.score(states[0, -1])[0], score, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_folder_gives_the_same_scores_and_keeps_its_marks(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(name)
    marked = marked_tokenizer(folder, 128, fine_tuned=False)
    model: Any = reward_model(folder, marked, seed=1)
    write_reward_model(model, model.state_dict(), tmp_path, marked)
    loaded, again = load_reward_model(tmp_path, torch.device("cpu")), marked_tokenizer(tmp_path, 128, fine_tuned=False)
    assert again.template == marked.template and len(again.tokenizer) == len(marked.tokenizer) == 42
    batch = TripleReader(triples(4), marked.template, marked.padding).batch(range(4)).tensors
    with torch.inference_mode():
        assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)
    fine_tuned: Any = reward_model(tmp_path, again, seed=2).eval()
    assert torch.equal(fine_tuned.score.weight, model.score.weight), "fine-tuning goes on from the trained head"


def test_model_is_equal_on_all_ranks_and_leaves_the_random_state_alone(dense: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=False)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one: Any = reward_model(dense, marked, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    two: Any = reward_model(dense, marked, seed=4)
    for (name, ours), (_, theirs) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    assert not torch.equal(one.score.weight, reward_model(dense, marked, seed=5).score.weight)  # type: ignore[union-attr, arg-type]


def test_backbone_without_a_head_is_no_reward_model(dense: Path) -> None:
    with pytest.raises(ValueError, match=r"is no reward model: score\.weight"):
        load_reward_model(dense, torch.device("cpu"))


def test_loss_is_minus_log_sigma_of_the_difference() -> None:
    found = bradley_terry(torch.tensor([2.0, 0.0, -3.0]), torch.tensor([1.0, 0.0, 1.0]))
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log(2), math.log1p(math.exp(4))], rel=1e-6)


def test_loss_of_a_batch_is_that_of_its_pairs_alone(dense: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    model, reader = reward_model(dense, marked, seed=1), TripleReader(triples(6), marked.template, marked.padding)
    together = pair_loss(model, reader.batch(range(6)))
    alone = torch.cat([pair_loss(model, reader.batch([number])) for number in range(6)])
    assert torch.allclose(together, alone, atol=1e-6) and together.shape == (6,)
    batch = reader.batch([3])
    winner, loser = batch.tensors["input_ids"].tolist()
    triple = triples(6)[3]
    assert winner[: len(winner) - winner.count(1)] == marked.template.sequence(triple.prefix, triple.reference, triple.candidate)
    assert loser[: len(loser) - loser.count(1)] == marked.template.sequence(triple.prefix, triple.reference, triple.other)
    assert batch.weights.tolist() == [1.0]


def test_order_of_samples_is_pure_and_every_triple_comes_once_an_epoch(dense: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=False)
    reader = TripleReader(triples(20), marked.template, marked.padding, seed=7)

    def epoch(of: TripleReader, number: int) -> Sequence[int]:
        return [of.place(number * 20 + index) for index in range(20)]

    first, second = epoch(reader, 0), epoch(reader, 1)
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    again = TripleReader(triples(20), marked.template, marked.padding, seed=7)
    assert epoch(again, 1) == second and epoch(again, 0) == first
    other = TripleReader(triples(20), marked.template, marked.padding, seed=8)
    assert epoch(other, 0) != first
    assert torch.equal(reader.batch([25, 3]).tensors["input_ids"], again.batch([25, 3]).tensors["input_ids"])


def test_training_tells_policies_apart_in_triples_it_has_not_seen(dense: Path) -> None:
    """With the labels turned it learns the opposite: the accuracy is of the loss's making."""
    marked = marked_tokenizer(dense, 128, fine_tuned=False)
    reader = TripleReader(triples(200), marked.template, marked.padding, seed=1)
    held_out = TripleReader(triples(100, seed=9), marked.template, marked.padding)
    rates = {}
    for sign in (1, -1):
        model: Any = reward_model(dense, marked, seed=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(60):
            scores = model(**reader.batch(range(step * 16, step * 16 + 16)).tensors).logits[:, 0]
            winners, losers = scores.chunk(2)
            optimizer.zero_grad()
            bradley_terry(sign * winners, sign * losers).mean().backward()
            optimizer.step()
        with torch.inference_mode():
            winners, losers = model.eval()(**held_out.batch(range(100)).tensors).logits[:, 0].chunk(2)
        rates[sign] = float((winners > losers).float().mean())
    assert rates[1] > 0.9 and rates[-1] < 0.1
