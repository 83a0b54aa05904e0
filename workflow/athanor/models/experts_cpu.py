"""All experts of a rank in one autograd node, for machines without a grouped matrix product.

Megatron's SequentialMLP runs each expert as a module of its own: ten small operations and as many autograd nodes an
expert, and four copies of the tokens. Here the matrices are multiplied straight into one buffer, and the activation is
computed once for all experts: on a CPU the MoE layers take a third less time.
"""

from typing import Any

import torch
from megatron.core.transformer.moe.experts import SequentialMLP


class TorchExperts(SequentialMLP):
    """SequentialMLP (same weights, same checkpoint) for SwiGLU experts without bias; others run as Megatron runs them."""

    def forward(
        self, permuted_local_hidden_states: torch.Tensor, tokens_per_expert: torch.Tensor, permuted_probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens [n, h] sorted by expert, how many each expert has, and their routing weights [n], to outputs [n, h]."""
        config = self.config
        if config.expert_tensor_parallel_size > 1 or config.add_bias_linear or config.fp8 or config.moe_apply_probs_on_input:
            output: tuple[torch.Tensor, torch.Tensor | None] = super().forward(
                permuted_local_hidden_states, tokens_per_expert, permuted_probs
            )
            return output
        weights = [expert.linear_fc1.weight for expert in self.local_experts]
        weights += [expert.linear_fc2.weight for expert in self.local_experts]
        counts = tokens_per_expert.tolist()
        return _SwiGluExperts.apply(permuted_local_hidden_states, permuted_probs, counts, *weights), None


class _SwiGluExperts(torch.autograd.Function):
    """y = (silu(x G^T) * (x U^T) * p) D^T, each token by its own expert's G, U (stacked) and D.

    Only x, p and x [G U]^T are kept for the backward pass; the activation is computed again.
    """

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, probs: torch.Tensor, counts: list[int], *weights: torch.Tensor) -> torch.Tensor:
        experts = len(counts)
        inner = tokens.new_empty(tokens.size(0), weights[0].size(0))
        for x, both, up_and_gate in zip(tokens.split(counts), inner.split(counts), weights[:experts], strict=True):
            torch.mm(x, up_and_gate.t(), out=both)
        gate, up = inner.chunk(2, dim=1)
        hidden = torch.nn.functional.silu(gate).mul_(up).mul_(probs.unsqueeze(1).to(inner.dtype))
        output = torch.empty_like(tokens)
        for h, y, down in zip(hidden.split(counts), output.split(counts), weights[experts:], strict=True):
            torch.mm(h, down.t(), out=y)
        ctx.counts = counts
        ctx.save_for_backward(tokens, probs, inner, *weights)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        tokens, probs, inner, *weights = ctx.saved_tensors
        counts, experts = ctx.counts, len(ctx.counts)
        outer = gradients[0].contiguous()
        gate, up = inner.chunk(2, dim=1)
        p = probs.unsqueeze(1).to(inner.dtype)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        active = silu * up
        weighted = active * p
        d_weighted = torch.empty_like(weighted)
        d_downs = []
        for h, dy, dh, down in zip(
            weighted.split(counts), outer.split(counts), d_weighted.split(counts), weights[experts:], strict=True
        ):
            torch.mm(dy, down, out=dh)
            d_downs.append(dy.t().mm(h))
        d_probs = active.mul_(d_weighted).sum(dim=1).to(probs.dtype)
        d_active = d_weighted.mul_(p)
        d_inner = torch.empty_like(inner)
        d_gate, d_up = d_inner.chunk(2, dim=1)
        torch.mul(d_active, silu, out=d_up)
        # silu'(g) = s + g s (1 - s), with s = sigmoid(g) and g s = silu(g)
        slope = silu.mul_(1 - sigmoid).add_(sigmoid)
        torch.mul(d_active.mul_(up), slope, out=d_gate)
        d_tokens = torch.empty_like(tokens)
        d_ups = []
        for x, dx, both, up_and_gate in zip(
            tokens.split(counts), d_tokens.split(counts), d_inner.split(counts), weights[:experts], strict=True
        ):
            torch.mm(both, up_and_gate, out=dx)
            d_ups.append(both.t().mm(x))
        return d_tokens, d_probs, None, *d_ups, *d_downs
