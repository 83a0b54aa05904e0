"""The logits that Megatron computes from a checkpoint, in any layout; run by every rank."""

import os
from pathlib import Path

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model, Parallel


def compute(checkpoint: Path, model: Model, tokens: Path, into: Path, sizes: dict[str, int]) -> None:
    """Load with training's own loader, and save the logits of `tokens` [batch, seq] as [batch, seq, vocabulary]."""
    import torch

    from athanor.models.language_model import build_language_model
    from athanor.training.layout import process_groups
    from athanor.training.sharded_state import _load, _take_weights, _weights_state

    from megatron.core import parallel_state, tensor_parallel  # isort: skip  (after the CPU stand-ins)

    parallel = Parallel(ranks=int(os.environ["WORLD_SIZE"]), **sizes)
    with process_groups(parallel, seed=3), torch.no_grad():
        chunks = build_language_model(model, parallel, Precision.FP32)
        _take_weights(chunks, _load(_weights_state(chunks), checkpoint), checkpoint)
        batch = torch.load(tokens)
        logits = chunks[0].eval()(batch, torch.arange(batch.shape[1]).expand_as(batch), None)
        if parallel_state.get_tensor_model_parallel_world_size() > 1:
            logits = tensor_parallel.gather_from_tensor_model_parallel_region(logits)
        if int(os.environ["RANK"]) == 0:
            torch.save(logits, into)
