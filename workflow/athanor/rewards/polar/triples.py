"""Triples of texts: a reference, a candidate of the same policy, and one of another policy, all behind one prefix.

What could tell them apart beside the policy is taken away: length (all three are cut to the shortest, without the token that
ended it), loops (cut to their first turn), and copies (a text that another begins with is no evidence of who wrote it).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from athanor.rewards.polar.prefixes import Continued, Prefix
from athanor.rewards.polar.roster import Policy

SAMPLES = 2  # texts of each policy behind a prefix


@dataclass(frozen=True)
class Text:
    """What a policy said behind a prefix: token ids."""

    tokens: tuple[int, ...]
    stopped: bool = False  # it ended by itself: the last token says so
    looped: bool = False  # it said the same again and again


@dataclass(frozen=True)
class Triple:
    """Token ids of a prefix and three continuations of equal length; `policy` wrote reference and candidate."""

    prefix: tuple[int, ...]
    reference: tuple[int, ...]
    candidate: tuple[int, ...]
    other: tuple[int, ...]
    policy: str
    other_policy: str
    prefix_id: str


@dataclass(frozen=True)
class Limits:
    """What texts make a triple."""

    shortest: int = 16  # tokens of a text; with fewer, policies cannot be told apart
    shared: float = 0.5  # share of a text that it may have in common with another's beginning


@dataclass
class Made:
    """Triples, and why the others were left out."""

    triples: list[Triple] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


Said = Callable[[Policy, Prefix], Sequence[Text]]


def make_triples(continued: Iterable[Continued], said: Said, limits: Limits) -> Made:
    """Four triples a prefix: either text of either policy as the reference, each against a text of the other policy.

    So each policy is a negative as often as a positive, and a policy by itself says nothing.
    """
    made = Made()
    for item in continued:
        for policy, rival in (item.policies, item.policies[::-1]):
            own, others = (_texts(said(who, item.prefix), who, item.prefix) for who in (policy, rival))
            for number in range(SAMPLES):
                reference, candidate, other = equalised(own[number], own[1 - number], others[number])
                if reason := _unfit(reference, candidate, other, limits):
                    made.dropped[reason] += 1
                    continue
                names = (policy.name, rival.name, item.prefix.id)
                made.triples.append(Triple(item.prefix.tokens, reference, candidate, other, *names))
    return made


def equalised(*texts: Text) -> tuple[tuple[int, ...], ...]:
    """The token ids of texts, without ends and loops, all as long as the shortest."""
    bare = [_bare(text) for text in texts]
    length = min(map(len, bare))
    return tuple(tokens[:length] for tokens in bare)


def respell(triple: Triple, decode: Callable[[list[int]], str], encode: Callable[[str], Sequence[int]]) -> Triple:
    """The same texts in the token ids of another tokenizer, in which they need not be equally long any more."""

    def spelt(tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(encode(decode(list(tokens))))

    return replace(
        triple,
        prefix=spelt(triple.prefix),
        reference=spelt(triple.reference),
        candidate=spelt(triple.candidate),
        other=spelt(triple.other),
    )


def first_turn(tokens: tuple[int, ...]) -> tuple[int, ...]:
    """A text that ends in a loop, up to the end of the loop's first turn. Of several periods the one that cuts most counts."""
    kept = len(tokens)
    for period in range(1, len(tokens) // 2 + 1):
        begin = len(tokens) - period
        while begin > 0 and tokens[begin - 1] == tokens[begin - 1 + period]:
            begin -= 1
        if len(tokens) - begin >= 2 * period:
            kept = min(kept, begin + period)
    return tokens[:kept]


def _bare(text: Text) -> tuple[int, ...]:
    tokens = text.tokens[:-1] if text.stopped else text.tokens
    return first_turn(tokens) if text.looped else tokens


def _texts(texts: Sequence[Text], policy: Policy, prefix: Prefix) -> Sequence[Text]:
    if len(texts) != SAMPLES:
        raise ValueError(f"{policy.name} has {len(texts)} texts behind prefix {prefix.id}; {SAMPLES} are needed")
    return texts


def _unfit(reference: tuple[int, ...], candidate: tuple[int, ...], other: tuple[int, ...], limits: Limits) -> str:
    """Why these are no triple; empty where they are one."""
    if len(reference) < limits.shortest:
        return "short"
    for one, two in ((reference, candidate), (reference, other), (candidate, other)):
        if one == two:
            return "identical"
        if _shared(one, two) > limits.shared * len(one):
            return "copied"
    return ""


def _shared(one: Sequence[int], two: Sequence[int]) -> int:
    """Leading tokens that both have."""
    return next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
