"""Which prompts a round asks: tasks by their weights, generators of the registry in turn, and within each ever harder ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from athanor.recipe.schema.choices import Route

POOL_FILE, WATCHED_FILE = "pool.jsonl.gz", "watched.jsonl.gz"
FIRST_SHARE = 0.25  # of a family's prompts that a curriculum begins with

Order = Callable[[int, int, str], int]  # (number of a draw, size, family) → which of so many prompts; each once before any again


@dataclass(frozen=True)
class Pooled:
    """A prompt that may be asked."""

    id: str
    task: str  # of the mixture
    family: str  # the generator, of problems; else the task
    route: Route
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    expected: str  # the answer on record
    entry: dict[str, Any] = field(default_factory=dict)  # what its verifier wants
    pass_rate: float | None = None  # of the start, where that was measured

    @property
    def question(self) -> str:
        """What is asked last."""
        return str(self.messages[-1]["content"])

    def row(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Pooled":
        """As `row` wrote it."""
        return cls(**{**row, "route": Route(row["route"])})


class Curriculum:
    """The prompts of every round: a function of the pool and the recipe alone, so that a resumed run asks the same."""

    def __init__(self, pool: Sequence[Pooled], mixture: Mapping[str, float], share: float, slots: int, order: Order) -> None:
        """`share` of all `slots` it takes until every prompt may come; 0: all may from the first."""
        self._families: dict[str, dict[str, list[Pooled]]] = {}
        for prompt in pool:
            self._families.setdefault(prompt.task, {}).setdefault(prompt.family, []).append(prompt)
        for families in self._families.values():
            for prompts in families.values():
                prompts.sort(key=lambda prompt: (-(prompt.pass_rate if prompt.pass_rate is not None else 0.0), prompt.id))
        self._weights = {task: mixture[task] for task in self._families}
        self._share, self._slots, self._order = share, slots, order
        self._drawn: list[Pooled] = []
        self._asked: dict[str, int] = {}  # by task
        self._of_family: dict[tuple[str, str], int] = {}

    def take(self, first: int, count: int) -> list[Pooled]:
        """So many prompts from the number `first` on, in the order of their asking; one may come twice where a family has few."""
        while len(self._drawn) < first + count:
            self._drawn.append(self._next())
        return self._drawn[first : first + count]

    def _next(self) -> Pooled:
        slot, total = len(self._drawn), sum(self._weights.values())
        # The task that is furthest behind its share.
        task = max(self._weights, key=lambda name: (self._weights[name] / total * (slot + 1) - self._asked.get(name, 0), name))
        turn = self._asked.get(task, 0)
        self._asked[task] = turn + 1
        families = sorted(self._families[task])
        family = families[self._order(turn, len(families), task)]
        draw = self._of_family.get((task, family), 0)
        self._of_family[task, family] = draw + 1
        known = self._families[task][family]
        open_share = 1.0 if not self._share else min(1.0, FIRST_SHARE + (1 - FIRST_SHARE) * slot / (self._share * self._slots))
        return known[self._order(draw, max(1, math.ceil(open_share * len(known))), family)]
