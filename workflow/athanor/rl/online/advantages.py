"""Rewards become advantages: each answer beside the others to its prompt, and each route beside the others.

Families of rewards differ in scale, spread and in how often a whole group is alike. docs/online-rl.md says which comparison
balances them, by numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from athanor.recipe.schema.choices import Comparison, Route

Advantages = NDArray[np.float64] | None  # [answers] of a group; None: all its rewards are the same, it is not learnt from

EMA_BOUND = 5.0  # of an advantage by a task's running deviation (Feng et al. 2025)
# Rewards that differ less, of the largest's size (at least 1), are the same: a reward model scores equal texts 1e-7 apart when
# they stand in different batches, and a group's deviation would make whole advantages of that.
SAME = 1e-6


@dataclass(frozen=True)
class Group:
    """The answers to one prompt, by their rewards."""

    prompt: str
    task: str
    route: Route
    rewards: tuple[float, ...]  # in the order of the answers

    @property
    def is_mixed(self) -> bool:
        """Whether its rewards differ: otherwise there is nothing to learn from."""
        return max(self.rewards) - min(self.rewards) > SAME * max(1.0, *map(abs, self.rewards))


@dataclass(frozen=True)
class Dropped:
    """Groups of one task that teach nothing, of those asked."""

    asked: int = 0
    all_right: int = 0  # a verifier's: every reward is 1
    all_wrong: int = 0  # a verifier's: every reward is 0
    all_same: int = 0  # any other route's

    def counters(self) -> dict[str, int]:
        """The counts, for metrics and the manifest."""
        return {"asked": self.asked, "all_right": self.all_right, "all_wrong": self.all_wrong, "all_same": self.all_same}


@dataclass(frozen=True)
class Moments:
    """Running moments of each task's rewards, a step each round that asks it, for the comparison `ema`.

    They begin at 0 and are divided by the weight that they have by then, as Adam's: the first round stands for itself, and does
    not weigh for ever what it would as a starting point.
    """

    tasks: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)  # first, second moment, weight (below 1)

    def after(self, groups: Sequence[Group], decay: float) -> "Moments":
        """With one more round: m <- decay m + (1 - decay) mean, over all answers of a task, those of dropped groups too."""
        tasks = dict(self.tasks)
        for task in dict.fromkeys(group.task for group in groups):
            rewards = np.concatenate([group.rewards for group in groups if group.task == task])
            round_of = (float(rewards.mean()), float(np.square(rewards).mean()), 1.0)
            before = tasks.get(task, (0.0, 0.0, 0.0))
            first, second, weight = (decay * old + (1 - decay) * new for old, new in zip(before, round_of, strict=True))
            tasks[task] = first, second, weight
        return Moments(tasks)

    def deviation(self, task: str) -> float:
        """sqrt(m2 - m1^2). Raises KeyError for a task that no round had."""
        first, second, weight = self.tasks[task]
        # Rounding may bring the difference below 0, while a group that is mixed has a deviation: the bound then decides.
        return float(max(second / weight - (first / weight) ** 2, np.finfo(np.float64).tiny) ** 0.5)

    def row(self) -> dict[str, list[float]]:
        """For JSON, which keeps every digit: a resumed run goes on exactly."""
        return {task: list(moments) for task, moments in self.tasks.items()}

    @staticmethod
    def of(row: Mapping[str, Sequence[float]]) -> "Moments":
        """What `row` wrote."""
        return Moments({task: (first, second, weight) for task, (first, second, weight) in row.items()})


def compare(groups: Sequence[Group], comparison: Comparison, moments: Moments | None = None) -> list[Advantages]:
    """Of each group, in order: R - mean(R), over what `comparison` says; None where rewards are all the same.

    `group_z` divides by the group's deviation, over all its answers (GRPO, Shao et al. 2024); `ema` by the task's running one,
    within ±5 (EMA-GRPO, Feng et al. 2025, 2512.03043), and wants `moments` with this round in them; `raw` by nothing.
    Raises ValueError for `ema` without.
    """
    if comparison is Comparison.EMA and moments is None:
        raise ValueError("comparison=ema has no moments; pass Moments().after(groups, decay) of the first round")

    def advantages(group: Group) -> NDArray[np.float64]:
        rewards = np.array(group.rewards, dtype=np.float64)
        beside: NDArray[np.float64] = rewards - rewards.mean()
        if comparison is Comparison.GROUP_Z:
            beside /= rewards.std()
        if comparison is Comparison.EMA and moments is not None:
            beside = (beside / moments.deviation(group.task)).clip(-EMA_BOUND, EMA_BOUND)
        return beside

    return [advantages(group) if group.is_mixed else None for group in groups]


def oreal(groups: Sequence[Group]) -> list[Advantages]:
    """OREAL's, of groups whose rewards are 0 or 1: 1 for what is right and cloned, -(1 - p) p n / (n - 1) for what is wrong.

    Rewards reshaped to (1 - p) R, p being the share that is right, less the mean of the n - 1 other answers' (RLOO, Kool et al.
    2019). What is right is what has an advantage above 0. Raises ValueError for any other reward.
    """
    for group in groups:
        if not set(group.rewards) <= {0.0, 1.0}:
            raise ValueError(f"oreal: rewards of {group.prompt} are {group.rewards}, not 0 or 1; use objective.kind=clipped")

    def advantages(group: Group) -> NDArray[np.float64]:
        right, answers = np.array(group.rewards), len(group.rewards)
        rate = right.mean()
        return np.where(right > 0, 1.0, -(1 - rate) * rate * answers / (answers - 1))

    return [advantages(group) if group.is_mixed else None for group in groups]


def dropped(groups: Sequence[Group]) -> dict[str, Dropped]:
    """How many groups of each task teach nothing, and why."""
    tasks = dict.fromkeys(group.task for group in groups)
    return {task: _dropped([group for group in groups if group.task == task]) for task in tasks}


def _dropped(groups: Sequence[Group]) -> Dropped:
    alike = [group for group in groups if not group.is_mixed]
    right = sum(group.route is Route.VERIFIER and group.rewards[0] == 1 for group in alike)
    wrong = sum(group.route is Route.VERIFIER and group.rewards[0] == 0 for group in alike)
    return Dropped(len(groups), right, wrong, len(alike) - right - wrong)


@dataclass(frozen=True)
class Share:
    """What one family has of |advantages|, beside all."""

    total: float  # of their sum: what it pulls with
    answer: float  # of the families' means over answers that are learnt from: what one of its answers pulls with


@dataclass(frozen=True)
class Shares:
    """By route and by task; without those of which no group is learnt from."""

    routes: Mapping[str, Share]
    tasks: Mapping[str, Share]


def shares_of(groups: Sequence[Group], advantages: Sequence[Advantages]) -> Shares:
    """The shares of a round; each kind of them sums to 1 over routes, and over tasks."""
    return Shares(_shares(groups, advantages, lambda group: group.route), _shares(groups, advantages, lambda group: group.task))


def _shares(groups: Sequence[Group], advantages: Sequence[Advantages], family: Callable[[Group], str]) -> dict[str, Share]:
    sizes: dict[str, list[NDArray[np.float64]]] = {}
    for group, one in zip(groups, advantages, strict=True):
        if one is not None:
            sizes.setdefault(str(family(group)), []).append(np.abs(one))
    sums = {name: float(np.sum(some)) for name, some in sizes.items()}
    means = {name: float(np.mean(some)) for name, some in sizes.items()}
    return {name: Share(sums[name] / sum(sums.values()), means[name] / sum(means.values())) for name in sizes}


def reweigh(groups: Sequence[Group], advantages: Sequence[Advantages], wanted: Mapping[str, float]) -> list[Advantages]:
    """Advantages scaled route by route, so that routes have the sum of |advantages| in the ratio of `wanted`; the sum stays.

    Weights are split among the routes that are learnt from in this round; a route without a weight keeps what it has.
    Raises ValueError where a weight is below 0, or those of the round are all 0.
    """
    if any(weight < 0 for weight in wanted.values()):
        raise ValueError(f"shares {dict(wanted)}: a weight is below 0; give what each route shall count beside the others")
    there = {route: share.total for route, share in shares_of(groups, advantages).routes.items() if route in wanted}
    weights = sum(wanted[route] for route in there)
    if there and not weights:
        raise ValueError(
            f"shares {dict(wanted)}: nothing is left of {', '.join(there)}, all that this round has; weigh one of them"
        )
    factors = {route: wanted[route] / weights * sum(there.values()) / share for route, share in there.items()}
    return [
        None if one is None else one * factors.get(str(group.route), 1.0) for group, one in zip(groups, advantages, strict=True)
    ]
