"""Block-scaled FP8 against the same thing written out number by number, and a linear layer against its formulas."""

import bisect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athanor.models.fp8_emulated import E2M1, E4M3, E5M2, BlockScaling, Minifloat, block_scaled_linear, quantised

TILES = [(1, 128), (128, 1), (128, 128)]
# e4m3 as its definition has it: four bits of exponent with bias 7, three of mantissa, the last code is NaN.
NUMBERS = [2**-6 * m / 8 for m in range(8)] + [2.0 ** (e - 7) * (1 + m / 8) for e in range(1, 16) for m in range(8)][:-1]


def _nearest(value: float) -> float:
    """The nearest number of e4m3; of two equally near ones the one with an even code."""
    size = min(abs(value), NUMBERS[-1])
    above = bisect.bisect_left(NUMBERS, size)
    below = max(above - 1, 0)
    apart = [abs(NUMBERS[code] - size) for code in (below, above)]
    code = above if apart[1] < apart[0] or (apart[0] == apart[1] and above % 2 == 0) else below
    return math.copysign(NUMBERS[code], value)


def _reference(values: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Every tile by itself, every number by itself."""
    result = torch.empty_like(values)
    for top in range(0, values.size(0), tile[0]):
        for left in range(0, values.size(1), tile[1]):
            part = values[top : top + tile[0], left : left + tile[1]]
            largest = part.abs().max().item()
            with np.errstate(over="ignore"):
                quotient = float(np.float32(448) / np.float32(largest)) if largest else 1.0
            scale = 2.0 ** (math.frexp(quotient)[1] - 1) if largest and math.isfinite(quotient) else 2.0**127 if largest else 1.0
            for i in range(part.size(0)):
                for j in range(part.size(1)):
                    result[top + i, left + j] = _nearest(part[i, j].item() * scale) / scale
    return result


def _normal(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def _of_all_sizes(n: int, k: int) -> torch.Tensor:
    """Numbers between 1e-38 and 1e38."""
    return _normal(n, k) * 10 ** (76 * torch.rand(n, k, generator=torch.Generator().manual_seed(1)) - 38)


CASES: dict[str, Callable[[], torch.Tensor]] = {
    "whole tiles": lambda: _normal(128, 256),
    "smaller last tiles": lambda: _normal(131, 200),
    "smaller than a tile": lambda: _normal(5, 7),
    "all sizes": lambda: _of_all_sizes(130, 140),
    "zeros": lambda: torch.cat([torch.zeros(130, 130), _normal(130, 20)], dim=1),
    "huge": lambda: torch.cat([torch.full((3, 130), 3e38), _normal(3, 10)], dim=1),
    "tiny": lambda: _normal(3, 130) * 1e-37,
    "subnormal": lambda: _normal(3, 130) * 1e-41,
    "halfway between two numbers": lambda: torch.arange(0, 448, 0.25).repeat(2, 1),
}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("case", CASES)
def test_quantised_is_the_reference_number_by_number(case: str, tile: tuple[int, int]) -> None:
    values = CASES[case]()
    assert torch.equal(quantised(values, tile, E4M3), _reference(values, tile))


@pytest.mark.parametrize("tile", TILES)
def test_quantising_again_changes_nothing(tile: tuple[int, int]) -> None:
    once = quantised(_of_all_sizes(131, 200), tile, E4M3)
    assert torch.equal(quantised(once, tile, E4M3), once)


# Above 1.9375 x 2^127 the nearest number is 2^128, which float32 does not have.
FINITE = st.floats(min_value=-(2.0**127), max_value=2.0**127, width=32)


@given(st.lists(FINITE, min_size=1, max_size=300))
def test_error_is_at_most_half_the_spacing(numbers: list[float]) -> None:
    values = torch.tensor([numbers])
    for left in range(0, len(numbers), 128):
        tile = values[:, left : left + 128].double()
        error = (quantised(values, (1, 128), E4M3)[:, left : left + 128].double() - tile).abs()
        smallest_spacing = max(tile.abs().max().item() / 224, 2.0**-127) * 2**-9  # the largest number is above 224
        assert (error <= torch.maximum(tile.abs() / 16, torch.tensor(smallest_spacing / 2))).all()


def test_nan_stays_and_infinity_saturates() -> None:
    values = torch.ones(2, 256)
    values[0, 3], values[1, 200] = torch.nan, -torch.inf
    found = quantised(values, (1, 128), E4M3)
    assert found[0, 3].isnan() and found.isnan().sum() == 1
    assert found[1, 200] == -448 and found.nan_to_num()[1, :200].eq(1).all()


def test_arithmetic_rounding_is_torchs_cast() -> None:
    values = torch.linspace(-448, 448, 100_003)
    assert torch.equal(Minifloat(mantissa_bits=3, lowest_exponent=-6, largest=448).nearest(values), E4M3.nearest(values))
    wide = torch.linspace(-57344, 57344, 100_003)
    assert torch.equal(Minifloat(mantissa_bits=2, lowest_exponent=-14, largest=57344).nearest(wide), E5M2.nearest(wide))


def test_fp4_has_eight_sizes_and_ties_go_to_even() -> None:
    values = torch.tensor([0.0, 0.25, 0.3, 0.75, 1.25, 1.3, 1.75, 2.5, 2.6, 3.5, 5.0, 5.1, 6.0])
    expected = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 4.0, 6.0, 6.0])
    assert torch.equal(E2M1.nearest(values), expected)
    assert torch.equal(E2M1.nearest(-values), -expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_and_its_gradients_are_the_formulas(dtype: torch.dtype) -> None:
    x, w, dy = (_normal(n, k, seed).to(dtype) for seed, (n, k) in enumerate([(3 * 70, 200), (150, 200), (3 * 70, 150)]))
    leaf, weight = x.view(3, 70, 200).clone().requires_grad_(), w.clone().requires_grad_()
    y = block_scaled_linear(leaf, weight, BlockScaling())
    y.backward(dy.view(3, 70, 150))
    rows, columns, blocks = ((lambda t, tile=tile: quantised(t, tile, E4M3)) for tile in TILES)
    assert leaf.grad is not None and weight.grad is not None
    assert torch.equal(y, (rows(x) @ blocks(w).t()).to(dtype).view(3, 70, 150))
    assert torch.equal(leaf.grad, (rows(dy) @ blocks(w)).to(dtype).view(3, 70, 200))
    assert torch.equal(weight.grad, (columns(dy).t() @ columns(x)).to(dtype))
    for found, exact in ((y, x.float() @ w.float().t()), (weight.grad, dy.float().t() @ x.float())):
        error = (found.float().flatten() - exact.flatten()).norm() / exact.norm()
        assert 0.01 < error < 0.05, "three bits of mantissa in both factors"


def test_frozen_weight_gets_no_gradient() -> None:
    x, w = _normal(4, 8).requires_grad_(), _normal(6, 8)
    block_scaled_linear(x, w, BlockScaling()).sum().backward()
    assert x.grad is not None and w.grad is None


def test_expert_without_tokens_gives_nothing_and_a_gradient_of_zeros() -> None:
    x, w = torch.zeros(0, 200, requires_grad=True), _normal(150, 200).requires_grad_()
    y = block_scaled_linear(x, w, BlockScaling())
    y.sum().backward()
    assert y.shape == (0, 150)
    assert w.grad is not None and torch.equal(w.grad, torch.zeros(150, 200))
