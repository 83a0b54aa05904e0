"""Megatron's parallel linear layers with block-scaled products (`fp8_emulated`), for machines without Transformer Engine."""

from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region, gather_from_sequence_parallel_region

from athanor.models.fp8_emulated import BlockScaling, block_scaled_linear


class BlockScaledLinear(torch.nn.Module):
    """What the two parallel layers below share: the product in place of Megatron's, between the same messages."""

    def __init__(self, *sizes: Any, scaling: BlockScaling, **settings: Any) -> None:
        super().__init__(*sizes, **settings)
        self.scaling = scaling

    def _forward_impl(
        self,
        input: torch.Tensor,
        weight: torch.Tensor,
        *,
        bias: torch.Tensor | None,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: Any,
        **_: Any,
    ) -> torch.Tensor:
        if sequence_parallel:
            input = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
        elif allreduce_dgrad:
            input = copy_to_tensor_model_parallel_region(input, group=tp_group)
        output = block_scaled_linear(input, weight, self.scaling)
        return output if bias is None else output + bias


class BlockScaledColumnParallelLinear(BlockScaledLinear, ColumnParallelLinear):
    """Megatron's ColumnParallelLinear (same weight, same checkpoint) with block-scaled products."""


class BlockScaledRowParallelLinear(BlockScaledLinear, RowParallelLinear):
    """Megatron's RowParallelLinear (same weight, same checkpoint) with block-scaled products."""
