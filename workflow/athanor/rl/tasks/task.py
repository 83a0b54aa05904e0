"""A task: a generator of problems at the levels of its own curriculum. Its name is what is logged, weighed and quarantined."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from math import prod

MOST_TASKS = 30  # of one generator: with more of a few of them a count of tasks says little
MOST_CANDIDATES = 80  # level vectors of a generator that are tried


@dataclass(frozen=True)
class Task:
    """`levels`: attribute → level, in the curriculum's order; empty where the generator has no curriculum."""

    generator: str
    levels: tuple[tuple[str, int], ...] = ()
    difficulty: float = 0.0  # from 0, every attribute at its first level, to 1, all at their last: declared, not measured

    @property
    def name(self) -> str:
        """`chain_sum(num_terms=3,num_digits=2)`."""
        inside = ",".join(f"{attribute}={level}" for attribute, level in self.levels)
        return f"{self.generator}({inside})" if inside else self.generator


def candidates(generator: str, attributes: Mapping[str, int]) -> list[Task]:
    """Level vectors to try, by a hash of their names: all of them, or the diagonal and each attribute alone and some others.

    `attributes`: number of levels of each. The order decides which tasks a generator keeps where more are sound than may be, so
    that these are no easier than the rest.
    """
    sizes = list(attributes.values())
    if prod(sizes) <= MOST_CANDIDATES:
        vectors = set(product(*map(range, sizes)))
    else:
        vectors = {tuple(min(level, size - 1) for size in sizes) for level in range(max(sizes))}
        for place, size in enumerate(sizes):
            vectors |= {tuple(level if at == place else 0 for at in range(len(sizes))) for level in range(size)}
        draws = 0
        while len(vectors) < MOST_CANDIDATES:
            vectors.add(tuple(_drawn(generator, place, draws) % size for place, size in enumerate(sizes)))
            draws += 1
    tasks = [Task(generator, tuple(zip(attributes, vector, strict=True)), _difficulty(vector, sizes)) for vector in vectors]
    return sorted(tasks, key=lambda task: _drawn(task.name))[:MOST_CANDIDATES]


def _difficulty(vector: tuple[int, ...], sizes: list[int]) -> float:
    shares = [level / (size - 1) for level, size in zip(vector, sizes, strict=True) if size > 1]
    return sum(shares) / len(shares) if shares else 0.0


def _drawn(*key: object) -> int:
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8, person=b"task").digest(), "little")
