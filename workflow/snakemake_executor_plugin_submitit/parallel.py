"""File work for many jobs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 16  # a file server answers each request late, but many at once


def at_once(act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call `act` for every item, in threads; return the results in order. Raises the first error."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(act, items))
