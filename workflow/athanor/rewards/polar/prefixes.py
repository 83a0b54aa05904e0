"""Beginnings of documents, which several policies continue."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from athanor.rewards.polar.roster import Policy, draw


@dataclass(frozen=True)
class Prefix:
    """The first tokens of a document. Its id is the document's."""

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Continued:
    """A prefix and the two policies that continue it."""

    prefix: Prefix
    policies: tuple[Policy, Policy]


def prefixes(documents: Iterable[tuple[str, Sequence[int]]], shortest: int, longest: int, seed: int) -> Iterator[Prefix]:
    """One prefix a document (id, token ids), its length drawn evenly from `shortest` … `longest` (1 to 1,024 in the paper).

    Documents that have no token left behind it are passed over.
    """
    for name, tokens in documents:
        length = shortest + draw("prefix", name, seed) % (longest - shortest + 1)
        if len(tokens) > length:
            yield Prefix(name, tuple(tokens[:length]))


def assign(some: Iterable[Prefix], policies: Sequence[Policy], seed: int) -> list[Continued]:
    """Give each prefix two policies of different models, drawn from `policies` by (seed, prefix) alone.

    So more prefixes, or a restart, leave those of the others as they were.
    """
    return [Continued(prefix, _pair(prefix, policies, seed)) for prefix in some]


def _pair(prefix: Prefix, policies: Sequence[Policy], seed: int) -> tuple[Policy, Policy]:
    one = policies[draw("one", prefix.id, seed) % len(policies)]
    others = [policy for policy in policies if policy.model != one.model]
    if not others:
        raise ValueError(f"all policies are of the model {one.model}, and a negative comes from another; add a model")
    return one, others[draw("other", prefix.id, seed) % len(others)]
