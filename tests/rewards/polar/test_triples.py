"""Triples: negatives of another model, equal lengths, no copies, no loops, and nothing that a policy's name would tell."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.rewards.polar.prefixes import Prefix, assign, prefixes
from athanor.rewards.polar.roster import Policy, draw
from athanor.rewards.polar.triples import Limits, Text, equalised, first_turn, make_triples

POLICIES = [Policy(f"m{m}", f"f{m // 2}", t) for m in range(6) for t in (0.7, 1.0)]
MODEL_OF = {policy.name: policy.model for policy in POLICIES}


def texts(policy: Policy, prefix: Prefix) -> list[Text]:
    """Two texts that follow from policy and prefix: of any length, some ended, few words."""
    found = []
    for number in range(2):
        random = np.random.default_rng(draw(policy.name, prefix.id, number) % 2**31)
        said = tuple(random.integers(0, 3 + draw(policy.model) % 4, size=random.integers(1, 60)).tolist())
        found.append(Text(said, stopped=bool(random.integers(2))))
    return found


@given(st.integers(0, 2**31), st.integers(1, 40))
def test_triples_have_their_negative_of_another_model_and_equal_lengths(seed: int, count: int) -> None:
    some = [Prefix(f"{seed}-{i}", (i, i + 1)) for i in range(count)]
    made = make_triples(assign(some, POLICIES, seed), texts, Limits(shortest=16, shared=0.5))
    assert len(made.triples) + sum(made.dropped.values()) == 4 * count
    for triple in made.triples:
        assert MODEL_OF[triple.policy] != MODEL_OF[triple.other_policy]
        assert len(triple.reference) == len(triple.candidate) == len(triple.other) >= 16
        assert len({triple.reference, triple.candidate, triple.other}) == 3


def test_every_policy_is_a_negative_as_often_as_a_positive() -> None:
    some = [Prefix(f"p{i}", (1,)) for i in range(300)]
    long = {p.name: [Text(tuple(draw(p.name, n, i) % 1000 for i in range(20))) for n in range(2)] for p in POLICIES}
    made = make_triples(assign(some, POLICIES, 3), lambda policy, _: long[policy.name], Limits())
    assert not made.dropped
    assert Counter(t.policy for t in made.triples) == Counter(t.other_policy for t in made.triples)
    assert len({t.policy for t in made.triples}) == len(POLICIES)


def test_copies_and_short_texts_are_left_out_by_reason() -> None:
    one, two = POLICIES[0], POLICIES[2]
    apart = [tuple(range(100 * n, 100 * n + 20)) for n in range(4)]
    said = {
        "same": {one: [apart[0], apart[0]], two: [apart[2], apart[3]]},
        "copy": {one: [apart[0], (*apart[0][:12], *apart[1][:8])], two: [apart[2], apart[3]]},
        "rival": {one: [apart[0], apart[1]], two: [(*apart[0][:12], *apart[2][:8]), (*apart[1][:12], *apart[3][:8])]},
        "short": {one: [apart[0], apart[1][:10]], two: [apart[2], apart[3]]},
        "good": {one: [apart[0], apart[1]], two: [apart[2], apart[3]]},
    }
    dropped = {}
    for name in said:
        continued = assign([Prefix(name, (1,))], [one, two], 0)
        made = make_triples(continued, lambda policy, prefix: [Text(t) for t in said[prefix.id][policy]], Limits())
        dropped[name] = dict(made.dropped)
    assert dropped == {
        "same": {"identical": 2},
        "copy": {"copied": 2},
        "rival": {"copied": 4},
        "short": {"short": 3},
        "good": {},
    }


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(2, 9))
def test_loops_keep_their_first_turn_only(before: list[int], period: list[int], turns: int) -> None:
    whole = (*before, *period * turns)
    kept = first_turn(whole)
    assert kept == whole[: len(kept)] and len(kept) <= len(before) + len(period)


def test_text_without_a_loop_stays_and_ends_are_no_evidence() -> None:
    assert first_turn((1, 2, 3, 4)) == (1, 2, 3, 4)
    assert equalised(Text((1, 2, 3, 9), stopped=True), Text((4, 5, 6, 7))) == ((1, 2, 3), (4, 5, 6))
    assert equalised(Text((1, 5, 5, 5, 5), looped=True), Text((4, 5, 6, 7))) == ((1, 5), (4, 5))


def test_prefixes_are_the_documents_own_beginnings_in_any_company() -> None:
    documents = [(f"d{i}", list(range(i, i + 40))) for i in range(50)] + [("tiny", [1, 2, 3])]
    some = list(prefixes(documents, 4, 12, seed=5))
    assert [p.id for p in some] == [name for name, _ in documents[:-1]]
    assert {len(p.tokens) for p in some} == set(range(4, 13))
    assert all(list(p.tokens) == dict(documents)[p.id][: len(p.tokens)] for p in some)
    assert list(prefixes(documents[20:30], 4, 12, seed=5)) == some[20:30]
    alone = assign(some[20:30], POLICIES, 5)
    assert alone == assign(some, POLICIES, 5)[20:30]


def test_policies_of_one_model_are_no_pair() -> None:
    with pytest.raises(ValueError, match="all policies are of the model m0"):
        assign([Prefix("p", (1,))], POLICIES[:2], 0)


def test_missing_text_is_named() -> None:
    with pytest.raises(ValueError, match="has 1 texts behind prefix p; 2 are needed"):
        make_triples(assign([Prefix("p", (1,))], POLICIES, 0), lambda *_: [Text((1, 2))], Limits())
