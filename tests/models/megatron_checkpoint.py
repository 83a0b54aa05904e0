"""Writes a small Megatron checkpoint from one or more ranks, and the logits its model gives: run as its own process.

python -m tests.models.megatron_checkpoint FOLDER [--load CHECKPOINT] [--tensor N] [--expert N] [--pipeline N] [--tie]
"""

import argparse
import os
from pathlib import Path

from athanor.recipe.schema import Model, Parallel, Precision

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--load", type=Path)
    for size in ("tensor", "expert", "pipeline"):
        parser.add_argument(f"--{size}", type=int, default=1)
    parser.add_argument("--tie", action="store_true")
    options = parser.parse_args()

    import torch

    from athanor.models.language_model import build_language_model
    from athanor.training.layout import process_groups
    from athanor.training.sharded_state import save_weights

    from megatron.core import dist_checkpointing  # isort: skip  (after the CPU stand-ins)

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    parallel = Parallel(ranks=ranks, tensor=options.tensor, expert=options.expert, pipeline=options.pipeline)
    with process_groups(parallel, seed=3):
        [model] = build_language_model(small_model(options.tie), parallel, Precision.FP32)
        model.eval()
        if options.load:
            model.load_state_dict(dist_checkpointing.load({"model": model.sharded_state_dict()}, str(options.load))["model"])
        elif ranks == 1:
            _shake_norms(model)
            tokens = torch.randint(VOCABULARY, (BATCH, SEQUENCE))
            with torch.no_grad():
                logits = model(tokens, torch.arange(SEQUENCE).expand(BATCH, SEQUENCE), None)
            options.folder.mkdir(parents=True)
            torch.save({"tokens": tokens, "logits": logits}, options.folder / "logits.pt")
        checkpoint = options.folder / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        torch.distributed.barrier()
        save_weights(model, checkpoint)


def _shake_norms(model: "torch.nn.Module") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Fresh norms are all ones: a swapped pair would not show."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))


if __name__ == "__main__":
    main()
