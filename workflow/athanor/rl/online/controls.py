"""Negative controls of online RL: rewards that say nothing of the answer they stand at. What still rises is not learnt from them.

Who gets which follows from the seed, the round and where a group stands in it: a run that was killed draws the same again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from athanor.rl.online.advantages import Group
from athanor.rl.selection import lot


def random(groups: Sequence[Group], seed: int, round_number: int) -> list[Group]:
    """Every answer is rewarded 1 as probably as the round's mean reward says, else 0.

    Raises ValueError where that mean is no probability.
    """
    rate = float(np.mean(np.concatenate([group.rewards for group in groups]))) if groups else 0.0
    if not 0 <= rate <= 1:
        raise ValueError(f"control random: the round's mean reward {rate:g} is no probability; give rewards from 0 to 1")

    def rewarded(slot: int, number: int) -> float:
        drawn = int.from_bytes(lot(f"random\0{round_number}\0{slot}.{number}", seed)[:6], "little")
        return float(drawn < rate * 2**48)

    return [
        replace(group, rewards=tuple(rewarded(slot, number) for number in range(len(group.rewards))))
        for slot, group in enumerate(groups)
    ]


def shuffled(groups: Sequence[Group], seed: int, round_number: int) -> list[Group]:
    """Every prompt gets the rewards of another one's answers, in another order; each prompt's are given once.

    Raises ValueError where groups differ in size, or more than half of a round is one prompt.
    """
    if len(sizes := {len(group.rewards) for group in groups}) > 1:
        raise ValueError(
            f"control shuffled: groups of {sorted(sizes)} answers; rewards can be exchanged among groups of one size"
        )
    most = max(Counter(group.prompt for group in groups).values(), default=0)
    if 2 * most > len(groups):
        raise ValueError(
            f"control shuffled: {most} of {len(groups)} groups are one prompt's; raise online.prompts or online.pool"
        )
    # In this order a prompt's groups stand together, so the group that stands `most` places on is another's.
    order = sorted(range(len(groups)), key=lambda i: (lot(f"shuffled\0{round_number}\0{groups[i].prompt}", seed), i))
    giver = {taker: order[(place + most) % len(order)] for place, taker in enumerate(order)}
    return [
        replace(group, rewards=_in_another_order(groups[giver[i]], f"{round_number}\0{group.prompt}\0{i}", seed))
        for i, group in enumerate(groups)
    ]


def _in_another_order(group: Group, name: str, seed: int) -> tuple[float, ...]:
    """By lot: equal rewards, and now and then all, may stand where they stood."""
    return tuple(group.rewards[n] for n in sorted(range(len(group.rewards)), key=lambda n: lot(f"order\0{name}\0{n}", seed)))
