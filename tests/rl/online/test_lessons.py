"""What rewards teach: advantages by comparison or control, the same for a run that goes on, and what is told of a round."""

from typing import Any

import pytest

from athanor.recipe.schema.choices import Comparison, PolicyLoss
from athanor.recipe.schema.online import Objective, Online
from athanor.rl.online.lessons import Lessons
from athanor.rl.online.rounds import Answered


def answers(rewards: dict[int, list[float]], route: str = "verifier") -> list[Answered]:
    found = []
    for slot, some in rewards.items():
        for number, reward in enumerate(some):
            who = (f"sums/{slot}", "sums", "sums", route)
            right = reward == 1 if route == "verifier" else None
            found.append(Answered(slot, number, *who, (5,) * (number + 1), (-0.5,) * (number + 1), "stop", "7", reward, right))
    return found


ROUND = answers({0: [1, 0, 0, 0], 1: [1, 1, 0, 0], 2: [1, 1, 1, 1], 3: [0, 0, 0, 0]})


def lessons(label: str = "model", **settings: Any) -> Lessons:
    return Lessons(Online(**settings), label, 1)


def test_groups_that_are_all_the_same_teach_nothing_and_are_counted() -> None:
    taught = lessons().of(0, ROUND, {})
    assert {a.slot for a in taught.answers if a.advantage is not None} == {0, 1}
    assert taught.metrics["groups/all_right/sums"] == taught.metrics["groups/all_wrong/sums"] == 1
    assert taught.metrics["groups/learnt_share"] == 0.5
    assert taught.metrics["pass_rate"] == 7 / 16 and taught.metrics["entropy"] == 0.5


def test_advantages_stand_at_their_answers() -> None:
    by_id = {a.id: a.advantage for a in lessons().of(0, ROUND, {}).answers}
    assert by_id["0.0"] == pytest.approx(3**0.5) and by_id["0.1"] == pytest.approx(-(3**-0.5))
    assert [by_id[f"1.{n}"] for n in range(4)] == pytest.approx([1, 1, -1, -1])


def test_oreal_clones_what_is_right_alone() -> None:
    taught = lessons(objective=Objective(kind=PolicyLoss.OREAL)).of(0, ROUND, {})
    for answer in taught.answers:
        if answer.advantage is not None:
            assert (answer.advantage > 0) == answer.right


def test_shares_are_those_that_are_wanted() -> None:
    mixed = [*ROUND, *answers({4: [0.1, 7.0, 3.0, 2.0], 5: [9.0, 1.0, 0.0, 5.0], 6: [1.0, 2.0, 3.0, 4.0]}, "reward_model")]
    as_they_come = lessons().of(0, mixed, {}).metrics
    wanted = lessons(shares={"verifier": 1.0, "reward_model": 1.0}).of(0, mixed, {}).metrics
    assert as_they_come["advantages/reward_model"] > 0.55
    assert wanted["advantages/reward_model"] == pytest.approx(0.5) == wanted["advantages/verifier"]


def test_round_in_which_no_group_has_ended_teaches_nothing() -> None:
    taught = lessons(comparison=Comparison.EMA).of(1, [], {"sums": [0.1, 0.2, 0.3]})
    assert taught.answers == () and taught.metrics == {} and taught.moments == {"sums": [0.1, 0.2, 0.3]}


def test_moments_go_on_from_the_round_before() -> None:
    running = lessons(comparison=Comparison.EMA, ema=0.5)
    first = running.of(0, ROUND, {})
    other = answers({0: [1, 1, 1, 0]})
    assert running.of(1, other, first.moments).answers != running.of(1, other, {}).answers
    assert running.of(1, other, first.moments) == lessons(comparison=Comparison.EMA, ema=0.5).of(1, other, first.moments)


@pytest.mark.parametrize("control", ["random", "shuffled"])
def test_control_gets_other_rewards_while_the_true_ones_are_told(control: str) -> None:
    many = answers({slot: [float((slot + n) % 4 == 0) for n in range(8)] for slot in range(64)})
    true, taught = lessons().of(3, many, {}), lessons(control).of(3, many, {})
    assert [a.reward for a in taught.answers] != [a.reward for a in many]
    assert taught.metrics["pass_rate"] == true.metrics["pass_rate"] == 0.25
    assert [a.right for a in taught.answers] == [a.right for a in many]
    assert sum(a.reward for a in taught.answers) / len(many) == pytest.approx(0.25, abs=0.06)
    assert taught == lessons(control).of(3, many, {})
