"""How a reference and a candidate become one sequence, whose last token is where the reward is read.

As released with POLAR: prompt, reference, `<|split_token|>`, prompt, candidate, `<|reward_token|>`, and where both prompts do not
fit, their beginnings go. Between prompt and response a fine-tuned model has a line break, a pre-trained one nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SPLIT, REWARD = "<|split_token|>", "<|reward_token|>"
LONGEST, LONGEST_RESPONSE = 16_384, 4_096  # tokens, as published
MARKS = 4  # tokens kept free of the longest: 16,380 are for the texts
THOUGHTS = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """What is scored: how like the reference the candidate answers the prompt. All are text."""

    prompt: str
    reference: str
    candidate: str


@dataclass(frozen=True)
class Template:
    """Ids of the two marks, what stands between prompt and response, and how long a sequence may be (tokens)."""

    split: int
    reward: int
    between: tuple[int, ...] = ()
    longest: int = LONGEST
    longest_response: int = LONGEST_RESPONSE

    def sequence(self, prompt: Sequence[int], reference: Sequence[int], candidate: Sequence[int]) -> list[int]:
        """The ids [at most `longest`].

        Responses are cut on the right to `longest_response`, or to half of the room where that is less; prompts on the left to
        (longest - 4 - |reference| - |candidate|) // 2 each.
        """
        room = self.longest - MARKS - 2 * len(self.between)
        most = min(self.longest_response, room // 2)
        first, second = list(reference[:most]), list(candidate[:most])
        kept = min(len(prompt), (room - len(first) - len(second)) // 2)
        asked = list(prompt[len(prompt) - kept :])
        return [*asked, *self.between, *first, self.split, *asked, *self.between, *second, self.reward]


def without_thoughts(text: str) -> str:
    """What is compared of an answer: not what was thought before it."""
    return THOUGHTS.sub("", text)
