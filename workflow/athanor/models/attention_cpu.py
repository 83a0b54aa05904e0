"""Core attention on torch's scaled_dot_product_attention, where Transformer Engine is absent.

Megatron's own DotProductAttention materialises the scores and refuses context parallelism and packed sequences
(dot_product_attention.py:57, 150); on a GPU TEDotProductAttention does all of it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule


def zigzag_positions(length: int, ranks: int) -> torch.Tensor:
    """Global positions [ranks * length] of gathered tokens when context rank r holds chunks r and 2*ranks-1-r."""
    half = length // 2
    chunks = [torch.arange(i * half, (i + 1) * half) for i in range(2 * ranks)]
    return torch.cat([part for r in range(ranks) for part in (chunks[r], chunks[2 * ranks - 1 - r])])


class TorchCoreAttention(MegatronModule):
    """softmax(Q K^T / sqrt(d)) V with grouped queries; causal, packed (PackedSeqParams) or over context ranks."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        **_unused: Any,
    ) -> None:
        super().__init__(config=config)
        if config.softmax_type != "vanilla" or config.apply_query_key_layer_scaling:
            raise NotImplementedError(f"softmax_type={config.softmax_type}: only the plain softmax runs on a CPU")
        self.attn_mask_type, self.softmax_scale = attn_mask_type, softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.context = getattr(pg_collection, "cp", None) or parallel_state.get_context_parallel_group()

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
        **_unused: Any,
    ) -> torch.Tensor:
        """Query [seq, batch, heads, dim], key and value [seq, batch, groups, dim] to [seq, batch, heads * dim].

        Packed sequences come without the batch: [tokens, heads, dim].
        """
        if packed_seq_params is not None:
            query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        causal = (attn_mask_type or self.attn_mask_type) in (AttnMaskType.causal, AttnMaskType.padding_causal)
        mask: torch.Tensor | None = None
        if packed_seq_params is not None:
            if self.context.size() > 1:
                raise NotImplementedError("packed sequences over context-parallel ranks need Transformer Engine")
            mask, causal = _same_document(query.size(0), packed_seq_params.cu_seqlens_q, causal), False
        elif self.context.size() > 1:
            positions = zigzag_positions(query.size(0), self.context.size())
            mine = positions.view(self.context.size(), -1)[self.context.rank()]
            key, value = (tensor_parallel.gather_from_sequence_parallel_region(t, group=self.context) for t in (key, value))
            mask, causal = (mine[:, None] >= positions[None]) if causal else None, False
        elif attention_mask is not None:
            mask, causal = ~attention_mask, False  # Megatron's True hides; an explicit mask replaces the causal one
        q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal,
            scale=self.softmax_scale,
            enable_gqa=query.size(2) != key.size(2),
            dropout_p=self.dropout if self.training else 0.0,
        )
        out = out.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)
        return out.squeeze(1) if packed_seq_params is not None else out

    def sharded_state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """No weights."""
        return {}


def _same_document(tokens: int, ends: torch.Tensor, causal: bool) -> torch.Tensor:
    """Which of `tokens` keys each query sees, when sequences end at `ends[1:]`."""
    document = torch.bucketize(torch.arange(tokens), ends[1:].long(), right=True)
    same = document[:, None] == document[None]
    return same.tril() if causal else same
