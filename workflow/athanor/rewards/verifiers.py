"""Whether what a model said is right: by the answer on record, or by the verifier of the generator that made the question."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import localcontext
from typing import Any

THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
WHOLE = 1.0  # a verifier's partial credits reward hedging: only what earns all of it is right

Scorer = Callable[[str, Mapping[str, Any]], float]


def said(text: str) -> str:
    """The answer itself: behind the thoughts, spacing aside."""
    return " ".join(THOUGHTS.sub(" ", text).split())


@dataclass
class Judge:
    """Tells right answers; counts the answers whose verifier raised, which are wrong."""

    broken: int = 0
    _scorers: dict[str, Scorer] = field(default_factory=dict)

    def is_right(self, text: str, expected: str, entry: Mapping[str, Any] | None = None) -> bool:
        """Whether `text`, a whole answer, is right. `entry` is a reasoning-gym problem; without one `expected` alone is right."""
        if not entry:
            return said(text) == said(expected)
        answer = THOUGHTS.sub(" ", text).strip()
        try:
            with localcontext():  # a verifier may set the precision of decimals, as the generators do
                return bool(answer) and self._scorer(entry)(answer, entry) >= WHOLE
        except Exception:  # what a verifier makes of prose is anybody's guess: ValueError, TypeError, RecursionError …
            self.broken += 1
            return False

    def _scorer(self, entry: Mapping[str, Any]) -> Scorer:
        import reasoning_gym  # takes 2 s, and not every task needs it

        name = entry["metadata"]["source_dataset"]
        return self._scorers.setdefault(name, reasoning_gym.get_score_answer_fn(name))
