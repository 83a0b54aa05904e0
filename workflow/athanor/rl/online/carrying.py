"""Answers that go on over rounds: a round gives each so many tokens more, and its group is learnt from once all have ended.

So a round takes as long as that many tokens take, whatever the longest answer. A group that has not ended keeps its prompt a
place in the next round, and as many fewer new prompts are asked; its ended answers wait for the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from athanor.rl.online.prompts import Pooled
from athanor.rl.online.rounds import OPEN, Answered, Made, open_slots
from athanor.rl.rollouts.sampling import Finish, Sample, loops

Take = Callable[[int, int], Sequence[Pooled]]  # (first, count) → prompts of the curriculum


@dataclass(frozen=True)
class Slot:
    """A place in a round: its prompt, and what the answers are so far, where it was asked in an earlier one."""

    prompt: Pooled
    said: tuple[Answered, ...] = ()


def slots_of(before: Made | None, prompts: int, pool: Mapping[str, Pooled], take: Take) -> list[Slot]:
    """The `prompts` places of the round behind `before` (None: of the first), those that go on first, renumbered."""
    if before is None:
        return [Slot(prompt) for prompt in take(0, prompts)]
    found = []
    for number, slot in enumerate(sorted(open_slots(before.answers))):
        said = tuple(replace(answer, slot=number) for answer in before.answers if answer.slot == slot)
        found.append(Slot(pool[said[0].prompt], said))
    return found + [Slot(prompt) for prompt in take(before.asked, prompts - len(found))]


def gone_on(said: Answered, sample: Sample, weights: str, text: Callable[[Sequence[int]], str], most: int) -> Answered:
    """`said` with what was drawn behind it by `weights`; of `most` tokens in all it is cut off."""
    tokens, log_probs = (*said.tokens, *sample.tokens), (*said.log_probs, *sample.log_probs)
    finish: str = sample.finish
    if sample.finish is Finish.LENGTH:
        finish = Finish.LOOP if loops(tokens) else Finish.LENGTH if len(tokens) >= most else OPEN
    spans = (*said.spans, (len(sample.tokens), weights))
    return replace(said, tokens=tokens, log_probs=log_probs, finish=str(finish), text=text(tokens), spans=spans)
