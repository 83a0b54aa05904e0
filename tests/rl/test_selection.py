"""Which questions are learnt from, and which of their answers."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.recipe.schema.post_training import PassRateFilter, ScoreWeights
from athanor.rewards.scores import Rules, Scores
from athanor.rl.preferences import is_exchanged, measured_of, pair_answers
from athanor.rl.selection import Candidate, answerable, best, drawn, keep

RIGHT, WRONG, UNSAFE = Scores(1.0, 1.0, 1.0), Scores(0.0, 1.0, 1.0), Scores(1.0, 1.0, 0.0)


def candidate(prompt: str, number: int, scores: Scores, log_prob: float = -1.0) -> Candidate:
    return Candidate(prompt, number, f"{prompt} {number}", scores, scores.total(ScoreWeights()), log_prob, 3)


def answers(right: Mapping[str, int], samples: int = 8) -> dict[str, list[Candidate]]:
    return {p: [candidate(p, n, RIGHT if n < count else WRONG) for n in range(samples)] for p, count in right.items()}


def rates(right: Mapping[str, int], samples: int = 8) -> dict[str, float]:
    return {prompt: count / samples for prompt, count in right.items()}


def test_questions_neither_too_easy_nor_too_hard_are_kept() -> None:
    right = {"never": 0, "hardly": 2, "often": 5, "always": 8}
    kept = keep(rates(right), answerable(answers(right)), PassRateFilter(floor=0.0))
    assert kept.prompts == ("often",)
    assert (kept.unanswered, kept.hard, kept.easy, kept.floor) == (1, 1, 1, 0)


def test_weak_family_keeps_its_floor_of_the_least_hard() -> None:
    right = {f"q{i}": 1 for i in range(6)} | {"q6": 2, "q7": 2}
    kept = keep(rates(right), answerable(answers(right)), PassRateFilter(floor=0.5))
    assert len(kept.prompts) == 4 and {"q6", "q7"} <= set(kept.prompts)
    assert kept.floor == 4 and kept.hard == 4


def test_pass_rate_of_all_models_decides_but_the_learner_must_have_answered() -> None:
    right = {"mine": 4, "others": 0}
    kept = keep({"mine": 0.5, "others": 0.5}, answerable(answers(right)), PassRateFilter())
    assert kept.prompts == ("mine",) and kept.unanswered == 1


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 8), min_size=1, max_size=30), st.floats(0, 1))
def test_every_question_is_kept_or_counted_once(right: dict[str, int], floor: float) -> None:
    kept = keep(rates(right), answerable(answers(right)), PassRateFilter(floor=floor))
    assert len(kept.prompts) + kept.unanswered + kept.easy + kept.hard == len(right)
    assert all(0 < right[prompt] < 8 for prompt in kept.prompts)
    assert list(kept.prompts) == [prompt for prompt in right if prompt in set(kept.prompts)], "in the order they were asked"


def test_best_is_right_and_safe_then_fluent_then_likely() -> None:
    halting = Scores(1.0, 0.5, 1.0)
    some = [candidate("p", 0, WRONG, 0.0), candidate("p", 1, UNSAFE, 0.0), candidate("p", 2, halting, -0.1)]
    assert best(some).number == 2, "what is wrong or forbidden is never learnt"
    assert best([*some, candidate("p", 3, RIGHT, -2.0), candidate("p", 4, RIGHT, -1.0)]).number == 4
    with pytest.raises(ValueError, match="empty"):
        best(some[:2])


def test_control_draws_right_and_wrong_alike_and_the_same_again() -> None:
    right = {f"p{i}": 2 for i in range(400)}
    chosen = [drawn(some, seed=7) for some in answers(right).values()]
    assert chosen == [drawn(some[::-1], seed=7) for some in answers(right).values()]
    assert 0.17 < sum(c.scores.accuracy for c in chosen) / 400 < 0.33
    assert chosen != [drawn(some, seed=8) for some in answers(right).values()]


def test_scores_tell_repetition_and_what_is_forbidden() -> None:
    rules = Rules([r"(?i)secret", r"\d{16}"])
    assert rules.score("all is well", right=True, whole=True) == RIGHT
    assert rules.score("all is well", right=False, whole=False) == Scores(0.0, 0.0, 1.0)
    assert rules.score("The SECRET is out", right=True, whole=True).safety == 0.0
    assert rules.score("a b c d " * 4, right=True, whole=True).fluency == pytest.approx(4 / 13)
    assert rules.score("", right=False, whole=True).fluency == 0.0


def test_pair_is_the_best_right_answer_before_the_worst_wrong_one() -> None:
    fluent, poor = Scores(0.0, 1.0, 1.0), Scores(0.0, 0.2, 1.0)
    answers = [
        candidate("q", 0, RIGHT, -2.0),
        candidate("q", 1, RIGHT, -1.0),
        candidate("q", 2, fluent),
        candidate("q", 3, poor, -3.0),
        candidate("q", 4, poor, -1.5),
    ]
    paired = pair_answers({"q": answers})
    assert [answer.number for answer in paired.pairs["q"]] == [1, 4]  # of equals the one the model finds likeliest


def test_right_but_forbidden_answer_is_never_preferred() -> None:
    paired = pair_answers({"q": [candidate("q", 0, UNSAFE), candidate("q", 1, WRONG)]})
    assert not paired.pairs and paired.never_right == 1


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 8), min_size=1, max_size=30))
def test_every_question_has_a_pair_or_is_counted_once(right: dict[str, int]) -> None:
    paired = pair_answers(answers(right))
    assert len(paired.pairs) + paired.never_right + paired.always_right == len(right)
    assert all(chosen.is_learnable and not rejected.is_learnable for chosen, rejected in paired.pairs.values())


def test_share_of_pairs_is_measured_and_half_of_the_control_exchanged() -> None:
    ids = [f"pair {number}" for number in range(4000)]
    measured = measured_of(ids, 0.125, 3)
    assert len(measured) == 500 and measured == measured_of(ids[::-1], 0.125, 3) and len(measured_of(ids[:2], 0.125, 3)) == 1
    exchanged = [is_exchanged(name, 3) for name in ids if name not in measured]
    assert sum(exchanged) == pytest.approx(len(exchanged) / 2, abs=110)  # whether it is measured says nothing about it
