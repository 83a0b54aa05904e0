"""People's ranks of three answers, as the triples that a pre-trained reward model is fine-tuned on.

The best answer is the reference, and the second is to beat the third: L = -E log sigma(r(p, A, B) - r(p, A, C)) for A > B > C
(arXiv 2507.05197, equation 6), which is the loss of pre-training on other triples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from athanor.rewards.polar.model import Marked
from athanor.rewards.polar.template import without_thoughts
from athanor.rewards.polar.triples import Triple


@dataclass(frozen=True)
class Ranked:
    """A prompt and three answers, the best first. All are text."""

    id: str
    prompt: str
    answers: tuple[str, str, str]


def rank_triples(ranked: Iterable[Ranked], marked: Marked) -> Iterator[Triple]:
    """Their triples of token ids, without thoughts. Raises ValueError where two answers of a rank are the same."""
    for rank in ranked:
        answers = [without_thoughts(answer) for answer in rank.answers]
        if len(set(answers)) < len(answers):
            raise ValueError(f"rank {rank.id} has the same answer in two places, which is no order; leave it out")
        prompt, best, second, third = (
            tuple(ids) for ids in marked.tokenizer([rank.prompt, *answers], add_special_tokens=False)["input_ids"]
        )
        yield Triple(prompt, best, second, third, "second", "third", rank.id)
