"""Ranks of three answers, as the triples that a pre-trained reward model is fine-tuned on.

The first is the reference, and the second is to beat the third: L = -E log sigma(r(p, A, B) - r(p, A, C)) for A > B > C
(arXiv 2507.05197, equation 6), which is the loss of pre-training on other triples. Where an answer is on record it is the
reference, and two of a model's own, of which one is worth more, are the others.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from athanor.rewards.polar.roster import draw
from athanor.rewards.polar.template import without_thoughts
from athanor.rewards.polar.triples import Triple


@dataclass(frozen=True)
class Ranked:
    """A prompt and three answers, the best first. All are text."""

    id: str
    prompt: str
    answers: tuple[str, str, str]


@dataclass(frozen=True)
class Valued:
    """An answer, and what it is worth in all."""

    text: str
    total: float


def rank_answers(question: str, prompt: str, reference: str, answers: Sequence[Valued], most: int, seed: int) -> list[Ranked]:
    """At most `most` ranks of the answers to `question` (an id) that differ in what they say and in what they are worth.

    Which, is drawn from `seed`. Nobody loses who says what the reference says; the winner may.
    """
    known: dict[str, float] = {}
    for answer in answers:  # thoughts apart, one text may have been valued twice
        text = without_thoughts(answer.text)
        known[text] = max(known.get(text, answer.total), answer.total)
    losers = [text for text in known if text != without_thoughts(reference)]
    pairs = [(winner, loser) for winner in known for loser in losers if known[winner] > known[loser]]
    drawn = sorted(pairs, key=lambda pair: draw("rank", question, *pair, seed))[:most]
    return [Ranked(f"{question}#{number}", prompt, (reference, *pair)) for number, pair in enumerate(drawn)]


def is_aside(question: str, share: float, seed: int) -> bool:
    """Whether a question's ranks are for measuring alone: `share` of all questions, drawn by their ids."""
    return draw("aside", question, seed) < share * 2**64


def rank_triples(ranked: Iterable[Ranked], tokenizer: Any) -> Iterator[Triple]:
    """Their triples of token ids by transformers' `tokenizer`, without thoughts.

    Raises ValueError where the last says the same as one before it.
    """
    for rank in ranked:
        answers = [without_thoughts(answer) for answer in rank.answers]
        if answers[2] in answers[:2]:
            raise ValueError(f"rank {rank.id} has the same answer as third and before it, which is no order; leave it out")
        prompt, best, second, third = (
            tuple(ids) for ids in tokenizer([rank.prompt, *answers], add_special_tokens=False)["input_ids"]
        )
        yield Triple(prompt, best, second, third, "second", "third", rank.id)
