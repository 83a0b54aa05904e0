"""Seeded bijections of [0, n) in constant memory: a Feistel network over the next power of four, walked into range.

A value that leaves [0, n) is permuted again until it is back inside (cycle walking; Black and Rogaway 2002, "Ciphers
with Arbitrary Finite Domains", section 3), fewer than four times on average. Nothing here is meant to keep a secret.
The arithmetic is written out so that an order never changes with a library's version.
"""

import hashlib
from typing import overload

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
MASK = 0xFFFF_FFFF_FFFF_FFFF
# splitmix64's finalizer (Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators")
MIX_1, MIX_2 = 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB


def stream_key(*parts: int | str) -> tuple[int, ...]:
    """The round keys of a bijection named by `parts`, as (seed, "epoch", "wiki_en", 3)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))


def permute(index: int, size: int, key: tuple[int, ...]) -> int:
    """Where the bijection `key` of [0, size) sends `index`. Raises ValueError for an index outside."""
    if not 0 <= index < size:
        raise ValueError(f"index {index} is outside [0, {size})")
    half = _half_bits(size)
    while True:
        index = _feistel(index, half, key)
        if index < size:
            return index


def permutation(size: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """The whole bijection: element i is permute(i, size, key)."""
    half = _half_bits(size)
    values = np.arange(size, dtype=np.uint64)
    outside = np.ones(size, dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half, key)
        outside = values >= size
    return values.astype(np.int64)


def _half_bits(size: int) -> int:
    """Half the bits of the smallest even-bit domain that holds [0, size)."""
    return max(1, (max(size - 1, 1).bit_length() + 1) // 2)


@overload
def _feistel(value: int, half: int, key: tuple[int, ...]) -> int: ...
@overload
def _feistel(value: NDArray[np.uint64], half: int, key: tuple[int, ...]) -> NDArray[np.uint64]: ...
def _feistel(value, half, key):  # type: ignore[no-untyped-def]  # the overloads are its type
    """One pass through the network; the same expressions serve an int and an array of uint64, which wraps by itself."""
    low = (1 << half) - 1
    left, right = value >> half, value & low
    for round_key in key:
        mixed = (right + round_key) & MASK if isinstance(right, int) else right + np.uint64(round_key)
        mixed = ((mixed ^ (mixed >> 30)) * MIX_1) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * MIX_2) & MASK
        left, right = right, left ^ ((mixed ^ (mixed >> 31)) & low)
    return (left << half) | right
