"""Pairs of a model's own answers to one question: one that a verifier calls right, before one that it does not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from athanor.rl.selection import Candidate, best, lot

PAIRS_FILE = "pairs.jsonl.gz"


@dataclass(frozen=True)
class Pair:
    """A question as messages, the tools that its answer may call, and two texts that answer it."""

    id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Paired:
    """The answers to prefer by question, and why other questions have none."""

    pairs: Mapping[str, tuple[Candidate, Candidate]]
    never_right: int
    always_right: int

    def counters(self) -> dict[str, int | str]:
        """The counts, for the manifest."""
        return {"pairs": len(self.pairs), "never_right": self.never_right, "always_right": self.always_right}


def pair_answers(candidates: Mapping[str, Sequence[Candidate]]) -> Paired:
    """Of every question with both kinds the best right answer, and the wrong one of the lowest total; among equals the one that
    the model finds likeliest, from which there is most to unlearn."""
    pairs, never, always = {}, 0, 0
    for prompt, answers in candidates.items():
        right = [candidate for candidate in answers if candidate.is_learnable]
        wrong = [candidate for candidate in answers if not candidate.is_learnable]
        if right and wrong:
            pairs[prompt] = best(right), min(wrong, key=lambda c: (c.total, -c.log_prob, c.number))
        never += not right
        always += bool(right) and not wrong
    return Paired(pairs, never, always)


def measured_of(pairs: Collection[str], share: float, seed: int) -> frozenset[str]:
    """The ids of the pairs that are kept from training, to measure them: a `share` of all, at least one."""
    return frozenset(sorted(pairs, key=lambda pair: lot(pair, seed))[: max(1, round(share * len(pairs)))])


def is_exchanged(pair: str, seed: int) -> bool:
    """Whether the control prefers the other answer of this pair: half of all, so that there is nothing to learn."""
    return bool(lot(f"exchanged\0{pair}", seed)[0] & 1)
