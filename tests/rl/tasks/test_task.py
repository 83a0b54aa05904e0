"""Level vectors of a generator: which are tried, in what order, and how hard they are said to be."""

from hypothesis import given
from hypothesis import strategies as st

from athanor.rl.tasks.task import MOST_CANDIDATES, Task, candidates

ATTRIBUTES = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 12), max_size=8)


@given(ATTRIBUTES)
def test_candidates_are_different_legal_and_no_more_than_may_be_tried(attributes: dict[str, int]) -> None:
    tasks = candidates("some", attributes)
    assert 1 <= len(tasks) == len({task.name for task in tasks}) <= MOST_CANDIDATES
    for task in tasks:
        assert dict(task.levels).keys() == attributes.keys()
        assert all(0 <= level < attributes[name] for name, level in task.levels)
        assert 0.0 <= task.difficulty <= 1.0
    assert tasks == candidates("some", attributes)


@given(ATTRIBUTES)
def test_all_levels_are_candidates_where_they_are_few(attributes: dict[str, int]) -> None:
    vectors = 1
    for size in attributes.values():
        vectors *= size
    assert len(candidates("some", attributes)) == min(vectors, MOST_CANDIDATES)


def test_order_is_not_that_of_difficulty() -> None:
    """Else a generator with more sound tasks than may be kept would keep its easiest."""
    tasks = candidates("chain_sum", {"num_terms": 11, "num_digits": 10})
    first = [task.difficulty for task in tasks[:30]]
    assert 0.3 < sum(first) / len(first) < 0.7


def test_name_says_the_levels() -> None:
    assert Task("gcd", (("num_terms", 3), ("value", 0))).name == "gcd(num_terms=3,value=0)"
    assert candidates("acre", {}) == [Task("acre")] and Task("acre").name == "acre"
