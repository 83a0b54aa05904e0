"""Block-scaled FP8 on a CPU: the products of a linear layer as Transformer Engine's Float8BlockScaling computes them.

Activations and gradients are quantised in tiles of 1 × 128, weights in blocks of 128 × 128, each with one scale, a power of
two, and e4m3 numbers in forward and backward (DeepSeek-V3, arXiv 2412.19437, section 3.3). Numbers are cast with torch's
float8 type and multiplied in float32, so a product differs from a Hopper GPU's in the order of its sums only. It is the
numerics of the recipe, not its speed: nothing here is faster than float32.

With x [tokens, in], w [out, in], and q the quantisation (rows: 1 × 128, columns: 128 × 1, blocks: 128 × 128):

    y = q_rows(x) q_blocks(w)ᵀ        dx = q_rows(dy) q_blocks(w)        dw = q_columns(dy)ᵀ q_columns(x)

Both factors of dw are quantised again from the high precision, along the tokens that its sums run over.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

FLOAT32_EXPONENT = -0x00800000  # the bits of sign and exponent, as a signed integer


class NumberFormat(Protocol):
    """The numbers that a quantised value can be."""

    @property
    def largest(self) -> float:
        """The largest finite one."""

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """Float32 values within ±`largest`, each rounded to the nearest number, ties to even; NaN stays NaN."""


@dataclass(frozen=True)
class TorchFloat:
    """One of torch's float8 types."""

    dtype: torch.dtype

    @property
    def largest(self) -> float:
        """The largest finite number: 448 for e4m3."""
        return torch.finfo(self.dtype).max

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """Cast there and back."""
        return values.to(self.dtype).float()


@dataclass(frozen=True)
class Minifloat:
    """A small float that torch has no casts for; below `lowest_exponent` its numbers are evenly spaced (subnormal)."""

    mantissa_bits: int
    lowest_exponent: int  # of a normal number
    largest: float

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """A multiple of the spacing that a value's own power of two has."""
        exponents = torch.frexp(values).exponent - 1
        spacing = torch.exp2((exponents.clamp(min=self.lowest_exponent) - self.mantissa_bits).float())
        return torch.round(values / spacing) * spacing  # torch rounds ties to even


E4M3 = TorchFloat(torch.float8_e4m3fn)
E5M2 = TorchFloat(torch.float8_e5m2)
E2M1 = Minifloat(mantissa_bits=1, lowest_exponent=0, largest=6.0)  # FP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6


@dataclass(frozen=True)
class BlockScaling:
    """Which numbers a linear layer multiplies, and how many of them share a scale."""

    numbers: NumberFormat = E4M3
    tile: int = 128

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Quantised in tiles of 1 × `tile`: [n, k] to float32 [n, k]."""
        return quantised(values, (1, self.tile), self.numbers)

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        """Quantised in tiles of `tile` × 1: [n, k] to float32 [n, k]."""
        return quantised(values, (self.tile, 1), self.numbers)

    def blocks(self, values: torch.Tensor) -> torch.Tensor:
        """Quantised in blocks of `tile` × `tile`: [n, k] to float32 [n, k]."""
        return quantised(values, (self.tile, self.tile), self.numbers)


def quantised(values: torch.Tensor, tile: tuple[int, int], numbers: NumberFormat) -> torch.Tensor:
    """What is left of `values` [n, k] when every tile of rows × columns is scaled, rounded and scaled back; float32.

    The last tile of a row or column may be smaller. NaN stays NaN; infinity saturates to the format's largest number, as on a
    GPU (there the tile's scale is 1).
    """
    n, k = values.shape
    height, width = min(tile[0], max(n, 1)), min(tile[1], k)
    padding = (0, -k % width, 0, -n % height)
    padded = torch.nn.functional.pad(values.float(), padding) if any(padding) else values.float()
    tiles = padded.reshape(padded.size(0) // height, height, padded.size(1) // width, width)
    scales = power_of_two_scales(tiles.abs().amax(dim=(1, 3), keepdim=True), numbers.largest)
    scaled = (tiles * scales).clamp_(-numbers.largest, numbers.largest)
    return (numbers.nearest(scaled) / scales).reshape(padded.shape)[:n, :k]


def power_of_two_scales(largest_values: torch.Tensor, largest_number: float) -> torch.Tensor:
    """The largest power of two that keeps a tile within the format, by its largest absolute value; both float32.

    As `compute_scale_from_amax` of Transformer Engine (common/recipe/recipe_common.cuh): 1 for a tile of zeros and one with an
    infinity or NaN, 2^127 where the quotient is beyond float32.
    """
    quotients = (largest_number / largest_values).clamp(max=torch.finfo(torch.float32).max)
    powers = quotients.view(torch.int32).bitwise_and(FLOAT32_EXPONENT).view(torch.float32)
    scalable = largest_values.isfinite() & (largest_values > 0)
    return torch.where(scalable, powers, 1.0)


def block_scaled_linear(x: torch.Tensor, weight: torch.Tensor, scaling: BlockScaling) -> torch.Tensor:
    """x [..., in] times weight [out, in], all three products of forward and backward quantised; [..., out] in x's type."""
    output: torch.Tensor = _BlockScaledLinear.apply(x, weight, scaling)
    return output


class _BlockScaledLinear(torch.autograd.Function):
    """Keeps x and w in their own precision: what the backward pass multiplies is quantised along other tiles."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scaling: BlockScaling) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.scaling = scaling
        output = scaling.rows(x.flatten(0, -2)) @ scaling.blocks(weight).t()
        return output.to(x.dtype).view(*x.shape[:-1], weight.size(0))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (x, weight), scaling = ctx.saved_tensors, ctx.scaling
        dy = gradients[0].flatten(0, -2)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = (scaling.rows(dy) @ scaling.blocks(weight)).to(x.dtype).view_as(x)
        if ctx.needs_input_grad[1]:  # not of a frozen weight
            dw = (scaling.columns(dy).t() @ scaling.columns(x.flatten(0, -2))).to(weight.dtype)
        return dx, dw, None
