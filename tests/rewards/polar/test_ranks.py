"""Fine-tuning on ranks of three: the same loss on other triples, from the pre-trained head on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from athanor.rewards.polar.model import marked_tokenizer, reward_model, saved_marks, write_reward_model
from athanor.rewards.polar.pairs import TripleReader, pair_loss
from athanor.rewards.polar.ranks import Ranked, rank_triples
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item


def ranks(count: int, seed: int) -> list[Ranked]:
    """The more of an answer's words are those of the best, the better it is."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        best = random.integers(0, 18, size=8)
        answers = [np.where(np.arange(8) < kept, best, random.integers(18, 37, size=8)) for kept in (8, 6, 1)]
        texts = tuple(" ".join(f"w{word}" for word in answer) for answer in answers)
        found.append(Ranked(str(number), "w1 w2", texts))  # type: ignore[arg-type]
    return found


def test_second_is_to_beat_third_beside_the_best(dense: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    model: Any = reward_model(dense, marked, seed=1).eval()
    [rank], template = ranks(1, 0), marked.template
    triples = list(rank_triples([rank], marked))
    found = pair_loss(model, TripleReader(triples, template, marked.padding).batch([0]))
    prompt, best, second, third = (marked.tokenizer.encode(text) for text in (rank.prompt, *rank.answers))
    rows = [torch.tensor([template.sequence(prompt, best, other)]) for other in (second, third)]
    winner, loser = (model(input_ids=row).logits[0, 0].detach() for row in rows)
    assert found[0].item() == pytest.approx(float(-logsigmoid(winner - loser)), abs=1e-6)


def test_fine_tuning_ranks_answers_it_has_not_seen(dense: Path, tmp_path: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    model: Any = reward_model(dense, marked, seed=1)
    reader = TripleReader(list(rank_triples(ranks(200, 0), marked)), marked.template, marked.padding, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        optimizer.zero_grad()
        pair_loss(model, reader.batch(range(step * 16, step * 16 + 16))).mean().backward()
        optimizer.step()
    write_reward_model(model, model.state_dict(), tmp_path, marked)
    assert saved_marks(tmp_path).template == marked.template and marked.template.between
    scorer, right = Scorer(tmp_path), 0
    for rank in ranks(60, 9):
        second, third = scorer.score_items([Item(rank.prompt, rank.answers[0], rank.answers[place]) for place in (1, 2)])
        right += second > third
    assert right > 54


def test_thoughts_are_no_part_of_an_answer_and_equal_answers_no_order(dense: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    plain = list(rank_triples([Ranked("r", "w1", ("w2", "w3", "w4"))], marked))
    assert list(rank_triples([Ranked("r", "w1", ("<think>w9</think>w2", "w3", "w4"))], marked)) == plain
    with pytest.raises(ValueError, match="rank r has the same answer in two places"):
        list(rank_triples([Ranked("r", "w1", ("<think>w9</think>w2", "w2", "w4"))], marked))
