"""All experts of a rank in one autograd node, for machines without a grouped matrix product.

Megatron's SequentialMLP runs each expert as a module of its own: ten small operations and as many autograd nodes an
expert, and four copies of the tokens. Here an expert is six matrix products, forward and backward, and nine passes over what
lies between: on a CPU the MoE layers take at least a third less time.
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
    """y = p (silu(x G^T) * (x U^T)) D^T, each token by its own expert's G, U (stacked) and D.

    Expert by expert, so that what one has computed is still in the cache when it goes on.
    """

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, probs: torch.Tensor, counts: list[int], *weights: torch.Tensor) -> torch.Tensor:
        output, kept = torch.empty_like(tokens), []
        ups, downs = weights[: len(counts)], weights[len(counts) :]
        for x, p, y, up_and_gate, down in zip(
            tokens.split(counts), probs.unsqueeze(1).split(counts), output.split(counts), ups, downs, strict=True
        ):
            inner = x.mm(up_and_gate.t())
            gate, up = inner.chunk(2, dim=1)
            silu = torch.nn.functional.silu(gate)
            active = silu * up
            outer = active.mm(down.t())
            torch.mul(outer, p, out=y)
            kept += [inner, silu, active, outer]
        ctx.counts = counts
        ctx.save_for_backward(tokens, probs, *weights, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        experts, saved = len(ctx.counts), ctx.saved_tensors
        tokens, probs, ups, downs = saved[0], saved[1], saved[2 : 2 + experts], saved[2 + experts : 2 + 2 * experts]
        kept = [saved[i : i + 4] for i in range(2 + 2 * experts, len(saved), 4)]
        d_tokens, d_probs, d_ups, d_downs = torch.empty_like(tokens), torch.empty_like(probs), [], []
        rows = (t.split(ctx.counts) for t in (tokens, probs.unsqueeze(1), gradients[0], d_tokens, d_probs))
        for (x, p, dy, dx, dp), (inner, silu, active, outer), up_and_gate, down in zip(
            zip(*rows, strict=True), kept, ups, downs, strict=True
        ):
            torch.sum(dy * outer, dim=1, out=dp)
            d_outer = dy.mul(p).to(dy.dtype)
            d_active = d_outer.mm(down)
            d_downs.append(d_outer.t().mm(active))
            gate, up = inner.chunk(2, dim=1)
            d_inner = torch.empty_like(inner)
            d_gate, d_up = d_inner.chunk(2, dim=1)
            torch.mul(d_active, silu, out=d_up)
            torch.ops.aten.silu_backward.grad_input(d_active.mul_(up), gate, grad_input=d_gate)
            torch.mm(d_inner, up_and_gate, out=dx)
            d_ups.append(d_inner.t().mm(x))
        return d_tokens, d_probs, None, *d_ups, *d_downs
