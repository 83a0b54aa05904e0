"""The split of policies: whole families, the same in every order, refused where a side has no negative."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.rewards.polar.roster import Policy, divide

TEMPERATURES = (0.7, 1.0)


def policies(families: int, models: int) -> list[Policy]:
    return [Policy(f"m{f}-{m}", f"f{f}", t) for f in range(families) for m in range(models) for t in TEMPERATURES]


@given(st.integers(2, 12), st.integers(2, 3), st.data())
def test_division_keeps_families_whole_and_loses_no_policy(families: int, models: int, data: st.DataObject) -> None:
    aside, seed = data.draw(st.integers(1, families - 1)), data.draw(st.integers(0, 2**31))
    everyone = policies(families, models)
    roster = divide(everyone, aside, seed)
    assert not {p.family for p in roster.train} & {p.family for p in roster.test}
    assert not {p.model for p in roster.train} & {p.model for p in roster.test}
    assert len({p.family for p in roster.test}) == aside
    assert sorted(p.name for p in roster.train + roster.test) == sorted(p.name for p in everyone)
    turned = divide(data.draw(st.permutations(everyone)), aside, seed)
    assert {p.name for p in turned.test} == {p.name for p in roster.test}


def test_division_follows_the_seed() -> None:
    everyone = policies(12, 2)
    assert len({frozenset(p.family for p in divide(everyone, 4, seed).test) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("everyone", "aside", "message"),
    [
        (policies(3, 1), 1, "1 model.* for test with test_families=1"),
        (policies(3, 2), 3, "0 model.* for training"),
        ([*policies(3, 2), Policy("m0-0", "f0", 0.7)], 1, "m0-0@0.7 are in the roster twice"),
        ([*policies(3, 2), Policy("m0-0", "f1", 0.9)], 1, "m0-0 are in two families"),
    ],
)
def test_roster_that_leaks_or_has_no_negative_is_refused(everyone: list[Policy], aside: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divide(everyone, aside, 0)
