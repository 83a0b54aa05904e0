"""Whether answers are right, told by the answer on record, and what share of them is."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from athanor.rl.rollouts.sampling import Finish

RATES_FILE = "pass_rates.json"
THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """One answer to one question. `right`: it says what the record says."""

    task: str
    prompt: str  # id of the conversation
    number: int
    question: str
    text: str
    expected: str
    finish: Finish
    tokens: int
    log_prob: float  # mean over its tokens, in nats

    @property
    def right(self) -> bool:
        """Whether it ended by itself, and what it says behind its thoughts is the record's answer, spacing aside."""
        return self.finish is Finish.STOP and _said(self.text) == _said(self.expected)


@dataclass(frozen=True)
class PassRate:
    """The share of right answers of one task. The error is that of a mean over prompts, whose samples are no separate facts."""

    task: str
    prompts: int
    samples: int  # a prompt
    rate: float
    stderr: float
    cut: float  # share that was cut off, or ran in a loop

    @classmethod
    def of(cls, task: str, answers: Sequence[Answer]) -> "PassRate":
        """Of all answers to the task's questions, at least one."""
        by_prompt: dict[str, list[bool]] = {}
        for answer in answers:
            by_prompt.setdefault(answer.prompt, []).append(answer.right)
        rates = [sum(right) / len(right) for right in by_prompt.values()]
        mean = sum(rates) / len(rates)
        spread = sum((rate - mean) ** 2 for rate in rates) / max(1, len(rates) - 1)
        cut = sum(answer.finish is not Finish.STOP for answer in answers) / len(answers)
        return cls(task, len(rates), len(answers) // len(rates), mean, math.sqrt(spread / len(rates)), cut)


def pass_rates(answers: Mapping[str, Sequence[Answer]]) -> list[PassRate]:
    """Of each task that has answers."""
    return [PassRate.of(task, some) for task, some in sorted(answers.items()) if some]


def _said(text: str) -> str:
    return " ".join(THOUGHTS.sub(" ", text).split())
