"""What stands in on a CPU for Transformer Engine's kernels computes what torch computes, in fewer passes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from athanor.models.language_model import ON_CPU  # isort: skip (before Megatron: it stands in for CUDA)
from megatron.core import parallel_state, tensor_parallel

from athanor.models.loss_cpu import ROWS
from athanor.models.norm_cpu import TorchRMSNorm
from athanor.models.rotary_cpu import rotary

pytestmark = pytest.mark.skipif(not ON_CPU, reason="stands in only where there is no GPU: pytest on such a machine runs this")


def _gradients(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The output and, for the same gradient of it every time, the inputs'."""
    output = function(*inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return [output, *torch.autograd.grad(output, inputs, weights)]


@pytest.mark.parametrize("tokens", [(6, 2), (ROWS, 1), (33, 4)])  # less than a block, a whole one, blocks and a rest
def test_cross_entropy_and_its_gradient_are_torchs(tokens: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 1)
    logits, labels = 30 * torch.randn(*tokens, 320), torch.randint(320, tokens)  # softmax of some underflows
    logits.requires_grad_()
    expected = _gradients(lambda x: F.cross_entropy(x.permute(0, 2, 1), labels, reduction="none"), logits)
    found = _gradients(lambda x: tensor_parallel.vocab_parallel_cross_entropy(x * 1, labels), logits)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


def test_cross_entropy_of_logits_that_are_no_numbers_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "get_tensor_model_parallel_world_size", lambda: 1)
    logits = torch.zeros(3, 1, 8)
    logits[1, 0, 5] = torch.nan
    losses = tensor_parallel.vocab_parallel_cross_entropy(logits, torch.zeros(3, 1, dtype=torch.long))
    assert losses.isnan().flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(16, 3, 32), (8, 2, 4, 16)])
def test_norm_and_its_gradients_are_torchs(shape: tuple[int, ...]) -> None:
    ours, x = TorchRMSNorm(shape[-1], eps=1e-5), torch.randn(shape, requires_grad=True)
    torch.nn.init.normal_(ours.weight)
    expected = _gradients(lambda x, w: F.rms_norm(x, shape[-1:], w, 1e-5), x, ours.weight)
    torch.testing.assert_close(_gradients(lambda x, w: ours(x), x, ours.weight), expected, atol=5e-6, rtol=5e-6)


def test_norm_of_bf16_is_torchs_to_the_last_bit() -> None:
    ours, x = TorchRMSNorm(32).bfloat16(), torch.randn(5, 32).bfloat16()
    assert torch.equal(ours(x), F.rms_norm(x, (32,), ours.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mscale", [1.0, 1.25])
def test_rotary_positions_and_their_gradient_are_megatrons_to_the_last_bit(dtype: torch.dtype, mscale: float) -> None:
    angles = torch.randn(16, 1, 1, 8).repeat(1, 1, 1, 2)
    heads = torch.randn(16, 3, 4, 16).to(dtype).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    composed = _composed()
    expected = _gradients(lambda t: composed(t, angles, mscale=mscale), heads)
    found = _gradients(lambda t: rotary(composed)(t, angles, mscale=mscale), heads)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert found[0].dtype is dtype and not torch.equal(found[0], heads)


@pytest.mark.parametrize("interleaved", [False, True])
def test_heads_that_turn_in_part_or_in_pairs_are_megatrons(interleaved: bool) -> None:
    angles = torch.randn(16, 1, 1, 8)
    heads = torch.randn(16, 3, 4, 16)
    composed = _composed()
    assert torch.equal(rotary(composed)(heads, angles, interleaved), composed(heads, angles, interleaved))


def _composed() -> Callable[..., torch.Tensor]:
    """Megatron's own, whatever stands in for it."""
    from megatron.core.models.common.embeddings import rope_utils

    standing_in: Any = rope_utils._apply_rotary_pos_emb_bshd
    composed: Callable[..., torch.Tensor] = standing_in.__closure__[0].cell_contents
    assert composed.__module__ == rope_utils.__name__
    return composed
