"""What is minimised: how a micro-batch goes through the model and how its loss counts. Pretraining's is the next token."""

from typing import Any, Protocol

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from athanor.training.batches import MicroBatch


class Objective(Protocol):
    """A loss that sums over tokens, so that it does not depend on how samples are spread over ranks."""

    def forward(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """The model's output; on earlier pipeline stages what the next stage gets."""
        ...

    def loss(self, output: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss in nats, and the number of tokens it sums over (0-dimensional, integer)."""
        ...

    def by_sample(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """[batch, 2], float64: what each sample has in both sums."""
        ...


class NextToken:
    """Cross-entropy of every next token."""

    def forward(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Losses [batch, seq] on the last pipeline stage."""
        packed = {} if batch.ends is None else {"packed_seq_params": _packed(batch)}
        output: torch.Tensor = model(batch.tokens, batch.positions, None, labels=batch.labels, **packed)
        return output

    def loss(self, output: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum over the tokens that `loss_mask` keeps, in float64: in float32 it would be off by 1e-4 nats already."""
        return (output.float() * batch.loss_mask).sum(dtype=torch.float64), batch.loss_mask.sum().int()

    def by_sample(self, output: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Sums over the same tokens."""
        losses = (output.float() * batch.loss_mask).sum(dim=1, dtype=torch.float64)
        return torch.stack([losses, batch.loss_mask.sum(dim=1, dtype=torch.float64)], dim=1)


def _packed(batch: MicroBatch) -> PackedSeqParams:
    """In Megatron's words: tokens see their own document alone, and their positions are counted in it."""
    ends, longest = batch.ends, batch.longest
    return PackedSeqParams(qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=longest, max_seqlen_kv=longest)
