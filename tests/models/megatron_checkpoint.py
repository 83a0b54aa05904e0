"""Writes a small Megatron checkpoint from one or more ranks, and the logits its model gives."""

import os
from pathlib import Path

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model, Parallel

VOCABULARY, BATCH, SEQUENCE = 320, 2, 24


def small_model(tie: bool) -> Model:
    """Two layers; no two of its sizes are equal, so that a wrong transposition cannot pass."""
    return Model(
        num_layers=2,
        hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        head_dim=16,
        num_experts=4,
        experts_per_token=2,
        expert_ffn_size=40,
        vocab_size=VOCABULARY,
        max_sequence_length=64,
        rope_base=5000.0,
        tie_embeddings=tie,
    )


def write(folder: Path, load: Path | None, tie: bool, sizes: dict[str, int]) -> None:
    """Run by every rank: fresh weights, or those of the checkpoint `load`, in the layout `sizes`."""
    import torch

    from athanor.models.language_model import build_language_model
    from athanor.training.layout import process_groups
    from athanor.training.sharded_state import save_weights

    from megatron.core import dist_checkpointing  # isort: skip  (after the CPU stand-ins)

    ranks = int(os.environ["WORLD_SIZE"])
    parallel = Parallel(ranks=ranks, **sizes)
    with process_groups(parallel, seed=3):
        [model] = build_language_model(small_model(tie), parallel, Precision.FP32)
        model.eval()
        if load:
            model.load_state_dict(dist_checkpointing.load({"model": model.sharded_state_dict()}, str(load))["model"])
        elif ranks == 1:
            _shake_norms(model)
            tokens = torch.randint(VOCABULARY, (BATCH, SEQUENCE))
            with torch.no_grad():
                logits = model(tokens, torch.arange(SEQUENCE).expand(BATCH, SEQUENCE), None)
            folder.mkdir(parents=True)
            torch.save({"tokens": tokens, "logits": logits}, folder / "logits.pt")
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        torch.distributed.barrier()
        save_weights([model], checkpoint)


def _shake_norms(model: "torch.nn.Module") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Fresh norms are all ones: a swapped pair would not show."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
