"""What is wrong with a recipe, collected so that the user sees all of it at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One wrong value: the key's dotted path, what stands there, and what would be right."""

    key: str
    value: object
    advice: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f"={self.value!r}" if isinstance(self.value, str) else f"={self.value}"
        return f"{self.key}{shown}: {self.advice}"


def not_divisible(where: str, number: int, by: str, divisor: int) -> Iterator[Problem]:
    """The problem that `divisor`, called `by`, does not divide `number`, with the nearest numbers that it does."""
    if divisor and number % divisor:
        near = [n for n in (number - number % divisor, number - number % divisor + divisor) if n]
        yield Problem(where, number, f"not divisible by {by}={divisor}; use {' or '.join(map(str, near))}")


class RecipeError(Exception):
    """A recipe or site file that cannot be used; `problems` holds every reason."""

    def __init__(self, title: str, problems: Sequence[Problem]) -> None:
        self.title, self.problems = title, tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("\n".join([f"{title}: {count}; nothing was started", *(f"  {p}" for p in problems)]))
