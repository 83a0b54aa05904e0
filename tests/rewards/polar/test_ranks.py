"""Fine-tuning on ranks of three: the same loss on other triples, from the pre-trained head on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from athanor.rewards.polar.model import marked_tokenizer, reward_model, saved_marks, write_reward_model
from athanor.rewards.polar.pairs import TripleReader, pair_loss
from athanor.rewards.polar.ranks import Ranked, Valued, is_aside, rank_answers, rank_triples
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.template import Item
from tests.rewards.polar.conftest import ranks


def test_second_is_to_beat_third_beside_the_best(dense: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    model: Any = reward_model(dense, marked, seed=1).eval()
    [rank], template = ranks(1, 0), marked.template
    triples = list(rank_triples([rank], marked.tokenizer))
    found = pair_loss(model, TripleReader(triples, template, marked.padding).batch([0]))
    prompt, best, second, third = (marked.tokenizer.encode(text) for text in (rank.prompt, *rank.answers))
    rows = [torch.tensor([template.sequence(prompt, best, other)]) for other in (second, third)]
    winner, loser = (model(input_ids=row).logits[0, 0].detach() for row in rows)
    assert found[0].item() == pytest.approx(float(-logsigmoid(winner - loser)), abs=1e-6)


def test_fine_tuning_ranks_answers_it_has_not_seen(dense: Path, tmp_path: Path) -> None:
    marked = marked_tokenizer(dense, 128, fine_tuned=True)
    model: Any = reward_model(dense, marked, seed=1)
    reader = TripleReader(list(rank_triples(ranks(200, 0), marked.tokenizer)), marked.template, marked.padding, seed=1)
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
    plain = list(rank_triples([Ranked("r", "w1", ("w2", "w3", "w4"))], marked.tokenizer))
    assert list(rank_triples([Ranked("r", "w1", ("<think>w9</think>w2", "w3", "w4"))], marked.tokenizer)) == plain
    for equal in (("w2", "w4", "<think>w9</think>w2"), ("w4", "w2", "w2")):
        with pytest.raises(ValueError, match="rank r has the same answer as third and before it"):
            list(rank_triples([Ranked("r", "w1", equal)], marked.tokenizer))


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([0.0, 0.5, 1.0])), max_size=12),
    st.sampled_from("abcxyz"),
    st.integers(1, 5),
)
def test_ranks_of_answers_put_worth_above_less_and_never_the_record_last(
    answers: list[tuple[str, float]], record: str, most: int
) -> None:
    valued = [
        Valued(f"<think>why</think>{text}" if number % 3 == 0 else text, worth) for number, (text, worth) in enumerate(answers)
    ]
    made = rank_answers("q", "asked", record, valued, most, seed=3)
    worth = {text: max(total for other, total in answers if other == text) for text, _ in answers}
    possible = {(a, b) for a in worth for b in worth if worth[a] > worth[b] and b != record}
    assert len(made) == min(most, len(possible)) and len({rank.answers for rank in made}) == len(made)
    for rank in made:
        assert rank.answers[0] == record and rank.answers[1:] in possible and rank.prompt == "asked"
    again = rank_answers("q", "asked", record, valued[::-1], most, seed=3)
    assert [rank.answers for rank in again] == [rank.answers for rank in made], "not by the order of answers"


def test_questions_put_aside_are_the_share_and_the_same_again() -> None:
    aside = {str(number) for number in range(2000) if is_aside(str(number), 0.1, seed=5)}
    assert 150 < len(aside) < 250
    assert aside == {str(number) for number in range(2000) if is_aside(str(number), 0.1, seed=5)}
    assert aside != {str(number) for number in range(2000) if is_aside(str(number), 0.1, seed=6)}
