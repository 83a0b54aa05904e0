"""The policies whose texts a reward model learns to tell apart, and which of them it never sees in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Policy:
    """A model that speaks at a temperature. Two temperatures of one model are never each other's negatives."""

    model: str  # which weights: a milestone, a fine-tuned model
    family: str  # models of one training run, which are all in training or all in the test
    temperature: float

    @property
    def name(self) -> str:
        """`480K@1.0`."""
        return f"{self.model}@{self.temperature}"


@dataclass(frozen=True)
class Roster:
    """Policies for training and for the test; no family is in both."""

    train: tuple[Policy, ...]
    test: tuple[Policy, ...]


def divide(policies: Sequence[Policy], test_families: int, seed: int) -> Roster:
    """Put `test_families` families aside, chosen by a hash keyed with `seed`; the others train.

    Raises ValueError where a policy is there twice, where a model is in two families, or where a side would have fewer than two
    models, without which there is no negative.
    """
    names = [policy.name for policy in policies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"policies {', '.join(twice)} are in the roster twice; leave one of each out")
    homes: dict[str, set[str]] = {}
    for policy in policies:
        homes.setdefault(policy.model, set()).add(policy.family)
    if torn := sorted(model for model, families in homes.items() if len(families) > 1):
        raise ValueError(f"models {', '.join(torn)} are in two families each, which the split could tear apart; give them one")
    families = sorted({policy.family for policy in policies}, key=lambda family: draw("family", family, seed))
    aside = set(families[:test_families])
    roster = Roster(
        tuple(policy for policy in policies if policy.family not in aside),
        tuple(policy for policy in policies if policy.family in aside),
    )
    for side, members in (("training", roster.train), ("test", roster.test)):
        if (models := len({policy.model for policy in members})) < 2:
            raise ValueError(
                f"{models} model(s) of {len(families)} families for {side} with test_families={test_families}: a negative comes "
                f"from another model, so two are needed on either side; add models to the roster or change test_families"
            )
    return roster


def draw(*parts: object) -> int:
    """A number of 64 bits named by `parts`: the same on every machine, and in any order of asking."""
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
