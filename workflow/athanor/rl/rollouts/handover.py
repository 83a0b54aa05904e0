"""Weights on their way from what learns to what answers, with a sum by which both know that they have the same."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import torch


def checksum(weights: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str:
    """Sixteen hexadecimal digits over names and float32 bytes, in any order of the names."""
    named = dict(weights)
    digest = blake2b(digest_size=8)
    for name in sorted(named):
        digest.update(name.encode())
        digest.update(named[name].detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
