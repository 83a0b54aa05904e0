"""A small random decoder with its tokenizer, as `export` leaves one: the backbone of reward models."""

from pathlib import Path
from typing import Any

import pytest

WORDS = ["<|endoftext|>", "<|pad|>", "\n", *(f"w{i}" for i in range(37))]
PADDING = 1


def write_backbone(folder: Path, *, experts: int, seed: int = 3) -> Path:
    """Qwen3, or Qwen3-MoE, of 40 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(WORDS), "max_position_embeddings": 256}
    routed = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    model: Any = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **routed)) if experts else Qwen3ForCausalLM(Qwen3Config(**shape))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of dense layers."""
    return write_backbone(tmp_path_factory.mktemp("dense"), experts=0)


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of experts."""
    return write_backbone(tmp_path_factory.mktemp("routed"), experts=4)
