"""Answers to right or wrong: an answer's shape first, then its verifier in the sandbox. One that harms its verifier is wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from athanor.rewards.sandbox.box import Outcome, Sandbox
from athanor.rl.tasks import programs
from athanor.rl.tasks.shapes import fits

WHOLE = 1.0  # partial credits reward hedging: only what earns all of it is right
BATCH = 64  # answers that one call judges
SECONDS_FIRST, SECONDS_EACH = 2.0, 0.25  # a call may take
SECONDS_ALONE = 4.0  # an answer by itself, whose batch came to nothing


@dataclass(frozen=True)
class Verdict:
    """Of one answer; `trouble` says why a verifier had no number for it."""

    right: bool
    trouble: str = ""


def _scores(outcome: Outcome, count: int) -> list[float | str] | None:
    """What a call says of so many answers; None where it says something else: an answer may have written it."""
    said = outcome.value
    if not outcome.came or not isinstance(said, list) or len(said) != count:
        return None
    return said if all(isinstance(s, str) or (isinstance(s, float) and math.isfinite(s)) for s in said) else None


@dataclass
class Verifier:
    """Judges answers through one sandbox. `troubles` counts what went wrong, by its kind; each such answer is wrong."""

    sandbox: Sandbox
    shaped: bool = True  # False: verifiers see everything, as an audit wants it
    troubles: dict[str, int] = field(default_factory=dict)

    def judge(self, module: str, generator: str, answers: Sequence[str], entries: Sequence[Any]) -> list[Verdict]:
        """A verdict for each answer to the entry of its place. `module` has `score`, as `rl/tasks/gym.py` has it."""
        verdicts = [Verdict(False, "") for _ in answers]
        seen = [at for at, answer in enumerate(answers) if not self.shaped or fits(generator, answer)]
        size = 1 if module == programs.__name__ else BATCH  # what a program leaves running lives until its call ends
        for begin in range(0, len(seen), size):
            places = seen[begin : begin + size]
            some = [answers[at] for at in places], [entries[at] for at in places]
            outcome = self.sandbox.call(module, "score", generator, *some, seconds=SECONDS_FIRST + SECONDS_EACH * len(places))
            scores = _scores(outcome, len(places))
            if scores is None:  # the others of the batch do not pay for it
                alone = [
                    self.sandbox.call(module, "score", generator, [answers[at]], [entries[at]], seconds=SECONDS_ALONE)
                    for at in places
                ]
                scores = [(_scores(one, 1) or [one.ended or one.error or "its reply is none"])[0] for one in alone]
            for at, score in zip(places, scores, strict=True):
                verdicts[at] = self._verdict(score)
        return verdicts

    def _verdict(self, score: float | str) -> Verdict:
        if isinstance(score, str):
            self.troubles[score] = self.troubles.get(score, 0) + 1
            return Verdict(False, score)
        return Verdict(score >= WHOLE)
