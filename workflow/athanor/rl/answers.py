"""Answers to questions, and what share of them is right."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from athanor.rl.rollouts.sampling import Finish

RATES_FILE = "pass_rates.json"


@dataclass(frozen=True)
class Answer:
    """One answer to one question."""

    task: str
    prompt: str  # id of the conversation
    number: int
    question: str
    text: str
    expected: str
    finish: Finish
    tokens: int
    log_prob: float  # mean over its tokens, in nats
    right: bool  # it ended by itself, and the task's verifier takes it


@dataclass(frozen=True)
class PassRate:
    """The share of right answers of one task. The error is that of a mean over prompts, whose samples are no separate facts."""

    task: str
    prompts: int
    samples: int  # a prompt
    rate: float
    stderr: float
    cut: float  # share that was cut off, or ran in a loop
    constant: float  # the rate of one answer to all questions: the commonest of the training conversations

    @classmethod
    def of(cls, task: str, answers: Sequence[Answer], constant: float) -> "PassRate":
        """Of all answers to the task's questions, at least one."""
        by_prompt: dict[str, list[bool]] = {}
        for answer in answers:
            by_prompt.setdefault(answer.prompt, []).append(answer.right)
        rates = [sum(right) / len(right) for right in by_prompt.values()]
        mean = sum(rates) / len(rates)
        spread = sum((rate - mean) ** 2 for rate in rates) / max(1, len(rates) - 1)
        cut = sum(answer.finish is not Finish.STOP for answer in answers) / len(answers)
        return cls(task, len(rates), len(answers) // len(rates), mean, math.sqrt(spread / len(rates)), cut, constant)


def pass_rates(answers: Sequence[Answer], constant: Mapping[str, float]) -> list[PassRate]:
    """Of each task that has answers; `constant` as in `PassRate`, by task."""
    by_task: dict[str, list[Answer]] = {}
    for answer in answers:
        by_task.setdefault(answer.task, []).append(answer)
    return [PassRate.of(task, some, constant[task]) for task, some in sorted(by_task.items())]
