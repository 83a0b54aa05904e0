"""Rotary positions as one autograd node, to the same bits: Megatron composes them of ten passes and copies, and keeps six tensors
for a gradient that two of cosines and sines decide."""

from collections.abc import Callable
from typing import Any

import torch


def rotary(composed: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """What Megatron's `_apply_rotary_pos_emb_bshd` does, by `composed` itself where not all of a head turns, or in pairs."""

    def apply(
        t: torch.Tensor,
        freqs: torch.Tensor,
        rotary_interleaved: bool = False,
        multi_latent_attention: bool = False,
        mscale: float = 1.0,
    ) -> torch.Tensor:
        if rotary_interleaved or multi_latent_attention or freqs.shape[-1] != t.shape[-1]:
            return composed(t, freqs, rotary_interleaved, multi_latent_attention, mscale)
        turned: torch.Tensor = _Rotary.apply(t, (freqs.cos() * mscale).to(t.dtype), (freqs.sin() * mscale).to(t.dtype))
        return turned

    return apply


class _Rotary(torch.autograd.Function):
    """(a, b) becomes (a cos - b sin, b cos + a sin): the halves of a head [seq, ..., 2 h], by angles [seq, 1, 1, 2 h]."""

    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        half = t.shape[-1] // 2
        turned = t * cos
        turned[..., :half].sub_(t[..., half:] * sin[..., :half])
        turned[..., half:].add_(t[..., :half] * sin[..., half:])
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        dy, half = gradients[0], gradients[0].shape[-1] // 2
        dt, turned = dy * cos, dy * sin
        dt[..., :half].add_(turned[..., half:])
        dt[..., half:].sub_(turned[..., :half])
        return dt, None, None
