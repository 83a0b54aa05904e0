"""Generators of our own as tables: by name what makes a problem at its levels, what answers look like, and which are right."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Entry = dict[str, Any]
TOLERANCE = 1e-3  # of a number's own size: questions ask for four figures
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
AS_NUMBER = "Answer with the number alone, to four significant figures."


@dataclass(frozen=True)
class Made:
    """A problem: its answer, and what the verifier wants beside."""

    question: str
    answer: str
    case: Any = None


@dataclass(frozen=True)
class Kind:
    """`levels`: attribute → values, easiest first, that `make` takes by name. `shape`: all that an answer may be."""

    make: Callable[..., Made]
    verify: Callable[[str, Entry], bool]
    levels: Mapping[str, Sequence[int]]
    shape: str  # a regular expression
    read: Callable[[str], str] = str.strip  # an answer to what has a shape


def level_counts(kind: Kind) -> dict[str, int]:
    """How many levels each attribute has."""
    return {name: len(values) for name, values in kind.levels.items()}


def values_at(kind: Kind, levels: Mapping[str, int]) -> dict[str, int]:
    """What `make` takes at these levels; attributes without one are at their first."""
    return {name: choices[levels.get(name, 0)] for name, choices in kind.levels.items()}


def make(generator: str, kind: Kind, levels: Mapping[str, int], seed: int, numbers: range) -> list[Entry]:
    """The problems of these numbers. Each follows from (generator, levels, seed, its number) alone."""
    values = values_at(kind, levels)
    made = [kind.make(random_of(generator, values, seed, number), **values) for number in numbers]
    return [{"question": one.question, "answer": one.answer, "case": one.case} for one in made]


def random_of(generator: str, values: Mapping[str, int], seed: int, number: int) -> Random:
    """What a problem draws from."""
    return Random(f"{generator}:{values}:{seed}:{number}")


def judge(kind: Kind, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """1.0 for what is right, 0.0 for what is not, and for what has not the shape of an answer."""
    shape = re.compile(kind.shape)
    read = ((kind.read(answer), entry) for answer, entry in zip(answers, entries, strict=True))
    return [float(shape.fullmatch(answer) is not None and kind.verify(answer, entry)) for answer, entry in read]


def is_same(answer: str, entry: Entry) -> bool:
    """Whether it is the answer on record."""
    return answer == str(entry["answer"])


def is_near(answer: str, entry: Entry) -> bool:
    """Whether it is the number on record, within the tolerance."""
    return math.isclose(float(answer), float(entry["answer"]), rel_tol=TOLERANCE)


def figures(number: float) -> str:
    """As it is asked for: four significant figures, no exponent. Raises ValueError for 0."""
    return f"{number:.{max(0, 3 - math.floor(math.log10(abs(number))))}f}"
