"""The template of a reference and a candidate, and the truncation that POLAR released."""

from hypothesis import given
from hypothesis import strategies as st

from athanor.rewards.polar.template import Template, without_thoughts

SPLIT, REWARD, BREAK = 1001, 1002, 1003


def test_sequence_is_prompt_reference_split_prompt_candidate_reward() -> None:
    assert Template(SPLIT, REWARD).sequence([1, 2], [3], [4, 5]) == [1, 2, 3, SPLIT, 1, 2, 4, 5, REWARD]
    fine_tuned = Template(SPLIT, REWARD, (BREAK,))
    assert fine_tuned.sequence([1], [3], [4]) == [1, BREAK, 3, SPLIT, 1, BREAK, 4, REWARD]


def test_prompt_loses_its_beginning_as_published() -> None:
    """At 16,384 tokens each prompt keeps its last (16380 - |r1| - |r2|) // 2."""
    prompt, reference, candidate = list(range(20_000)), [7] * 4000, [8] * 1001
    found = Template(SPLIT, REWARD).sequence(prompt, reference, candidate)
    kept = (16_380 - 4000 - 1001) // 2
    assert found[:kept] == prompt[-kept:] and found[kept : kept + 4000] == reference
    assert found[kept + 4001 : 2 * kept + 4001] == prompt[-kept:]
    assert found[-1002:] == [*candidate, REWARD] and len(found) <= 16_384


@given(st.integers(0, 80), st.integers(1, 80), st.integers(1, 80), st.integers(16, 120), st.booleans())
def test_sequence_fits_and_both_sides_see_the_same_prompt(
    prompt: int, reference: int, candidate: int, longest: int, broken: bool
) -> None:
    template = Template(SPLIT, REWARD, (BREAK,) if broken else (), longest, 64)
    one, two = [200 + i for i in range(reference)], [400 + i for i in range(candidate)]
    found = template.sequence(list(range(prompt)), one, two)
    assert len(found) <= longest and found[-1] == REWARD and found.count(SPLIT) == 1
    first, second = found[: found.index(SPLIT)], found[found.index(SPLIT) + 1 : -1]
    asked = [token for token in first if token < 200]
    assert asked == [token for token in second if token < 200] == list(range(prompt))[prompt - len(asked) :]
    assert [t for t in first if 200 <= t < 400] == one[: len([t for t in first if 200 <= t < 400])]
    assert [t for t in second if 400 <= t < 1000], "a candidate is never cut away"
    if 2 * prompt + reference + candidate + 2 * broken + 4 <= longest and max(reference, candidate) <= longest // 4:
        assert len(asked) == prompt and len(found) == 2 * prompt + reference + candidate + 2 * broken + 2


def test_thoughts_are_not_compared() -> None:
    assert without_thoughts("<think>\nA\nB</think>\n\nyes") == "yes"
    assert without_thoughts("no <think>open") == "no <think>open"
