"""Weights on their way from what learns to what answers, with a sum by which both know that they have the same."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import torch


def checksum(weights: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str:
    """Sixteen hexadecimal digits over names and float32 bytes, in any order of the names."""
    named = weights if isinstance(weights, Mapping) else dict(weights)
    return combined(digests(named, named))


def digests(weights: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, bytes]:
    """Of the weights of these names, each read when its turn comes; several at once."""

    def digest(name: str) -> tuple[str, bytes]:
        return name, blake2b(weights[name].detach().float().cpu().contiguous().numpy().data, digest_size=16).digest()

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(digest, names))


def combined(digests: Mapping[str, bytes]) -> str:
    """The checksum of weights with these digests."""
    whole = blake2b(digest_size=8)
    for name in sorted(digests):
        whole.update(name.encode() + b"\0" + digests[name])
    return whole.hexdigest()
