"""Advantages: each comparison by its formula, families in balance and out of it, controls that say nothing, what is watched."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.recipe.schema.choices import Comparison, Route
from athanor.rl.online import controls
from athanor.rl.online.advantages import (
    EMA_BOUND,
    Advantages,
    Group,
    Moments,
    compare,
    dropped,
    oreal,
    reweigh,
    shares_of,
)
from athanor.rl.online.watching import Seen, watch

SAMPLES = 8
BALANCED = (0.28, 0.40)  # of three families: a third, and what the spread of binary rewards takes or adds


def group(rewards: Iterable[float], prompt: str = "p", task: str = "sums", route: Route = Route.VERIFIER) -> Group:
    return Group(prompt, task, route, tuple(map(float, rewards)))


def right(count: int, prompt: str = "p", samples: int = SAMPLES) -> Group:
    return group([1] * count + [0] * (samples - count), prompt)


def families(spread: float, seed: int, prompts: int = 1000) -> list[Group]:
    """A rule that nine answers in ten meet, a verifier that calls three in ten right, and unbounded scores as POLAR's: prompts
    one apart (standard deviation), answers to one prompt `spread`."""
    random, made = np.random.default_rng(seed), []
    for number in range(prompts):
        scores = random.normal(random.normal(0.0, 1.0), spread, SAMPLES)
        made.append(group(random.random(SAMPLES) < 0.9, f"rule {number}", "rule", Route.RULES))
        made.append(group(random.random(SAMPLES) < 0.3, f"verifier {number}", "verifier", Route.VERIFIER))
        made.append(group(scores, f"polar {number}", "polar", Route.REWARD_MODEL))
    return made


def compared(groups: Sequence[Group], comparison: Comparison) -> list[Advantages]:
    return compare(groups, comparison, Moments().after(groups, 0.99))


def values(advantages: Advantages) -> list[float]:
    assert advantages is not None
    return [float(value) for value in advantages]


def test_group_z_is_the_distance_from_the_mean_in_deviations() -> None:
    """A rare success counts 2.65, which is sqrt(7), against 1 where half are right: the price of equal groups."""
    rare, half = compare([right(1), right(4)], Comparison.GROUP_Z)
    assert values(rare) == pytest.approx([7**0.5] + [-1 / 7**0.5] * 7)
    assert values(half) == pytest.approx([1.0] * 4 + [-1.0] * 4)


def test_raw_is_the_distance_from_the_mean() -> None:
    assert values(compare([group([3.0, 1.0, -1.0])], Comparison.RAW)[0]) == [2.0, 0.0, -2.0]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.sampled_from(list(Comparison)))
def test_advantages_sum_to_nothing_or_are_none(rewards: list[float], comparison: Comparison) -> None:
    one = group(rewards)
    [found] = compared([one], comparison)
    assert (found is None) == (not one.is_mixed)
    if found is not None:
        assert np.isfinite(found).all() and abs(found.sum()) < 1e-6 * max(1.0, np.abs(found).sum())
        assert (np.diff(found[np.argsort(rewards)]) >= 0).all(), "a higher reward never has the lower advantage"


@pytest.mark.parametrize("comparison", list(Comparison))
def test_groups_whose_rewards_are_the_same_teach_nothing(comparison: Comparison) -> None:
    """Scores of equal texts that differ in the last digits of float32 among them."""
    noise = group([2.5, 2.5 + 2e-7, 2.5 - 1e-7], route=Route.REWARD_MODEL)
    assert compared([right(0), right(8), noise, right(3)], comparison)[:3] == [None] * 3
    [differ] = compared([group([2.5, 2.6], route=Route.REWARD_MODEL)], comparison)
    assert differ is not None


def test_dropped_groups_are_counted_by_task_and_cause() -> None:
    scores = group([0.5] * 4, task="essays", route=Route.REWARD_MODEL)
    counted = dropped([right(0), right(8), right(8), right(3), scores, group([1.0] * 4, task="form", route=Route.RULES)])
    assert counted["sums"].counters() == {"asked": 4, "all_right": 2, "all_wrong": 1, "all_same": 0}
    assert counted["essays"].all_same == counted["form"].all_same == 1


def test_ema_divides_by_the_tasks_running_deviation_within_its_bound() -> None:
    first = [group([0, 1, 1, 0], task="sums"), group([10, 30, 10, 30], task="essays")]
    then = [group([0, 0, 0, 1], task="sums"), group([0, 1000, 0, 0], task="essays")]
    moments = Moments().after(first, 0.9)
    assert moments.deviation("sums") == pytest.approx(0.5) and moments.deviation("essays") == pytest.approx(10)
    assert values(compare(first, Comparison.EMA, moments)[1]) == pytest.approx([-1, 1, -1, 1])
    moments = moments.after(then, 0.9)
    # Weights of the rounds .09 and .1, of .19: the mean is (.09 x .5 + .1 x .25) / .19, and of squares the same.
    mean = (0.09 * 0.5 + 0.1 * 0.25) / 0.19
    assert moments.deviation("sums") == pytest.approx((mean - mean**2) ** 0.5)
    sums, _ = compare(then, Comparison.EMA, moments)
    assert values(sums) == pytest.approx([(r - 0.25) / moments.deviation("sums") for r in (0, 0, 0, 1)])
    calm = Moments({"sums": (0.0, 1.0, 1.0), "essays": (0.0, 1e-4, 1.0)})
    assert values(compare(then, Comparison.EMA, calm)[1]) == [-EMA_BOUND, EMA_BOUND, -EMA_BOUND, -EMA_BOUND]
    with pytest.raises(ValueError, match=r"comparison=ema has no moments"):
        compare(then, Comparison.EMA)


def test_ema_that_goes_on_from_json_is_the_one_that_was_never_stopped() -> None:
    rounds = [families(3.0, seed, prompts=5) for seed in range(6)]
    through, resumed = Moments(), Moments()
    for number, groups in enumerate(rounds):
        through = through.after(groups, 0.99)
        resumed = Moments.of(json.loads(json.dumps(resumed.row()))) if number == 3 else resumed
        resumed = resumed.after(groups, 0.99)
        pairs = zip(compare(groups, Comparison.EMA, through), compare(groups, Comparison.EMA, resumed), strict=True)
        assert all(one is other is None or values(one) == values(other) for one, other in pairs)
    forgetful = Moments().after(rounds[-1], 0.99)
    assert resumed == through and forgetful != through


def test_task_that_is_not_asked_keeps_its_moments() -> None:
    before = Moments().after([group([0, 2], task="sums")], 0.9)
    assert before.after([group([0, 9], task="essays")], 0.9).deviation("sums") == before.deviation("sums")


def test_oreal_reshapes_by_the_rate_and_leaves_the_answer_out_of_its_mean() -> None:
    """By hand, for two of eight right: rewards reshaped to 1 - 1/4, a wrong one's seven others have a mean of 2 x 3/4 / 7."""
    found = values(oreal([right(2)])[0])
    assert found == pytest.approx([1.0] * 2 + [-(2 * 0.75 / 7)] * 6)
    assert found[-1] == pytest.approx(-(1 - 0.25) * 0.25 * 8 / 7)
    assert oreal([right(0), right(8)]) == [None, None]
    with pytest.raises(ValueError, match=r"not 0 or 1; use objective\.kind=clipped"):
        oreal([group([0.5, 1.0], route=Route.RULES)])


@pytest.mark.parametrize("spread", [3.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_group_z_without_groups_that_are_all_the_same_balances_answers_of_families(spread: float, seed: int) -> None:
    """What one answer that is learnt from pulls with; the negative control is the distance from the mean alone."""
    groups = families(spread, seed)
    balanced = shares_of(groups, compared(groups, Comparison.GROUP_Z)).routes
    assert all(BALANCED[0] <= share.answer <= BALANCED[1] for share in balanced.values()), balanced
    raw = shares_of(groups, compared(groups, Comparison.RAW)).routes
    assert raw[Route.RULES].answer < BALANCED[0]
    assert (raw[Route.REWARD_MODEL].answer > BALANCED[1]) == (spread == 3.0)


def test_ema_does_not_balance_scores_whose_prompts_differ_more_than_their_answers() -> None:
    groups = families(0.5, seed=0)
    shares = shares_of(groups, compared(groups, Comparison.EMA)).routes
    assert shares[Route.REWARD_MODEL].answer < BALANCED[0] and shares[Route.RULES].answer > BALANCED[1]


def test_sums_are_out_of_balance_by_the_groups_dropped_until_they_are_reweighed() -> None:
    """A rule that is nearly always met has 43 of 100 groups all alike, and no comparison makes up for these."""
    groups = families(3.0, seed=0)
    before = compared(groups, Comparison.GROUP_Z)
    assert shares_of(groups, before).routes[Route.RULES].total < BALANCED[0]
    wanted = {"rules": 1.0, "verifier": 2.0, "reward_model": 1.0}
    after = reweigh(groups, before, wanted)
    shares = shares_of(groups, after)
    assert {route: 4 * share.total for route, share in shares.routes.items()} == pytest.approx(wanted)
    assert shares.tasks["verifier"] == shares.routes[Route.VERIFIER]
    sums = [sum(float(np.abs(one).sum()) for one in some if one is not None) for some in (before, after)]
    assert sums[0] == pytest.approx(sums[1])
    assert [one is None for one in before] == [one is None for one in after]


def test_reweighing_is_among_the_routes_that_are_there() -> None:
    groups = [right(4, "a"), group([0, 3, 3, 0], "b", "form", Route.RULES), group([0, 0], "c", "essays", Route.REWARD_MODEL)]
    found = compare(groups, Comparison.RAW)
    all_named = reweigh(groups, found, {"verifier": 1, "rules": 1, "reward_model": 8})
    assert {name: share.total for name, share in shares_of(groups, all_named).routes.items()} == pytest.approx(
        {"verifier": 0.5, "rules": 0.5}
    )
    assert values(reweigh(groups, found, {"verifier": 5})[0]) == values(found[0]), "alone it has what it had"
    assert values(reweigh(groups, found, {})[1]) == values(found[1])
    for wrong, words in (({"rules": -1.0}, "below 0"), ({"rules": 0.0, "reward_model": 1.0}, "nothing is left of rules")):
        with pytest.raises(ValueError, match=words):
            reweigh(groups, found, wrong)


def test_random_rewards_come_at_the_true_rate_and_say_nothing_of_the_answer() -> None:
    groups = [right(number % 4, f"p{number}") for number in range(1000)]  # a rate of 1.5 in 8
    drawn = controls.random(groups, seed=3, round_number=5)
    true, found = (np.array([one.rewards for one in some]) for some in (groups, drawn))
    error = (0.1875 * 0.8125 / true.size) ** 0.5
    assert abs(found.mean() - 0.1875) < 4 * error and set(np.unique(found)) == {0.0, 1.0}
    assert abs(np.corrcoef(true.ravel(), found.ravel())[0, 1]) < 4 / true.size**0.5
    assert drawn == controls.random(groups, 3, 5)
    assert drawn != controls.random(groups, 4, 5) and drawn != controls.random(groups, 3, 6)
    with pytest.raises(ValueError, match=r"mean reward 2 is no probability"):
        controls.random([group([1.0, 3.0])], 0, 0)


def test_one_prompt_that_is_asked_twice_is_rewarded_by_another_lot() -> None:
    groups = [right(4, "again", samples=64)] * 2
    first, second = controls.random(groups, seed=1, round_number=0)
    assert first.rewards != second.rewards


def test_shuffled_rewards_are_always_another_prompts_and_each_is_given_once() -> None:
    # Group i has the rewards i … i + 7 hundredths: whose they were can be told. Every fourth prompt is asked twice.
    groups = [
        group([number + sample / 100 for sample in range(SAMPLES)], f"p{number - (number % 4 == 1)}") for number in range(60)
    ]
    owner = {round(reward): one.prompt for one in groups for reward in one.rewards}
    for round_number in range(20):
        shuffled = controls.shuffled(groups, 7, round_number)
        assert all(owner[round(taker.rewards[0])] != taker.prompt for taker in shuffled)
        assert sorted(sorted(one.rewards) for one in shuffled) == sorted(sorted(one.rewards) for one in groups)
        assert [one.prompt for one in shuffled] == [one.prompt for one in groups]
    in_order = sum(list(one.rewards) == sorted(one.rewards) for one in shuffled)
    assert in_order < 3, "within a group they stand in another order"
    assert shuffled == controls.shuffled(groups, 7, 19)
    assert shuffled != controls.shuffled(groups, 7, 18) and shuffled != controls.shuffled(groups, 8, 19)


def test_rewards_that_cannot_be_exchanged_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 groups are one prompt's; raise online\.prompts"):
        controls.shuffled([right(1, "a"), right(2, "a"), right(3, "b")], 0, 0)
    with pytest.raises(ValueError, match=r"groups of \[4, 8\] answers"):
        controls.shuffled([right(1, "a"), right(2, "b", samples=4)], 0, 0)


def test_watching_tells_a_reward_for_length_within_prompts_from_easy_prompts_with_short_answers() -> None:
    def seen(tokens: Sequence[int]) -> list[Seen]:
        return [Seen(count, count / 100, troubled=count == 40) for count in tokens]

    easy, hard = group([1, 1, 1, 0], "easy"), group([0, 0, 0, 1], "hard")
    fair = watch([easy, hard], [seen([10, 10, 10, 10]), seen([40, 40, 40, 40])])
    assert (fair["answer_tokens_above"], fair["answer_tokens_below"]) == (17.5, 32.5)
    scored = group([3, 3, 3, 1], "scored", route=Route.REWARD_MODEL)
    hacked = watch([scored, right(4, samples=4)], [seen([30, 30, 30, 10]), seen([5, 5, 5, 5])])
    assert (hacked["answer_tokens_above"], hacked["answer_tokens_below"]) == (30, 10)
    assert hacked["answer_tokens"] == 15 and hacked["repeated_share_above"] == pytest.approx(0.3)
    assert fair["troubled_share"] == 0.5 and hacked["troubled_share"] == 0
    alike = group([2.5, 2.5 + 2e-7], route=Route.REWARD_MODEL)
    assert "answer_tokens_above" not in watch([right(4, samples=4), alike], [seen([5] * 4), seen([5] * 2)])
    assert watch([], []) == {}
