"""Which prompts are left to learn from: none too easy or too hard, and of every family a floor."""

import pytest

from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.post_training import PassRateFilter
from athanor.rl.online.families import Family
from athanor.rl.online.prompts import Pooled
from athanor.stages.rewarding import script_share


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
        "prompts": 10, "contaminated": 3, "too_long": 0, "unanswered": 1, "easy": 2, "hard": 2, "kept_by_floor": 0, "kept": 2
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


@pytest.mark.parametrize(
    ("text", "like", "share"),
    [("abc", "xyz", 1.0), ("абв", "xyz", 0.0), ("ab вг", "xyz", 0.5), ("12", "xyz", 1.0), ("абв", "12", 1.0), ("", "a", 1.0)],
)
def test_script_of_an_answer_is_that_of_the_record(text: str, like: str, share: float) -> None:
    assert script_share(text, like) == share
