"""How difficult questions are, and which are left out of what is learnt."""

from hypothesis import given
from hypothesis import strategies as st

from athanor.recipe.schema.choices import Difficulty
from athanor.recipe.schema.post_training import Labels
from athanor.rl.difficulty import grade, level_of

RATES = {"never": 0.0, "hardly": 0.125, "seldom": 0.25, "often": 0.5, "mostly": 0.75, "always": 1.0}


def test_levels_lie_between_the_declared_bounds() -> None:
    found = {question: level_of(rate, Labels()) for question, rate in RATES.items()}
    assert found == {
        "never": Difficulty.UNSOLVED,
        "hardly": Difficulty.HARD,
        "seldom": Difficulty.HARD,
        "often": Difficulty.MEDIUM,
        "mostly": Difficulty.EASY,
        "always": Difficulty.EASY,
    }
    assert level_of(0.75, Labels(easy_from=0.8)) is Difficulty.MEDIUM


def test_dropped_levels_are_left_out_down_to_the_floor() -> None:
    rule = Labels(drop=[Difficulty.EASY, Difficulty.UNSOLVED], floor=0.0)
    assert grade(RATES, rule).dropped == {"never", "mostly", "always"}
    spared = grade(RATES, Labels(drop=[Difficulty.EASY, Difficulty.UNSOLVED], floor=4 / 6))
    assert spared.dropped == {"never", "always"} and spared.spared == 1, "the one nearest to a half stays"


def test_weak_task_keeps_its_floor_and_a_strong_one_loses_what_is_hard() -> None:
    """A filter of both together would leave nothing of the weak one."""
    rule = Labels(drop=[Difficulty.UNSOLVED, Difficulty.HARD], floor=0.25)
    weak = {f"w{i}": 0.125 * (i % 2) for i in range(40)}
    strong = {f"s{i}": 0.5 if i % 2 else 0.0 for i in range(40)}
    kept = [set(rates) - grade(rates, rule).dropped for rates in (weak, strong)]
    assert [len(some) for some in kept] == [10, 20]
    assert {weak[question] for question in kept[0]} == {0.125}, "the least hard first"
    assert grade(weak, rule).dropped == grade(dict(reversed(weak.items())), rule).dropped


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 8), min_size=1, max_size=30), st.sets(st.sampled_from(Difficulty)))
def test_every_question_has_one_level_and_no_level_is_dropped_unasked(right: dict[str, int], drop: set[Difficulty]) -> None:
    graded = grade({question: count / 8 for question, count in right.items()}, Labels(drop=sorted(drop), floor=0.5))
    assert sum(graded.count(level) for level in Difficulty) == len(right)
    assert all(graded.levels[question] in drop for question in graded.dropped)
    assert len(right) - len(graded.dropped) >= round(0.5 * len(right)) or not drop
    assert graded.count(Difficulty.UNSOLVED) == sum(not count for count in right.values())
