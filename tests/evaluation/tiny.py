"""A tiny tokenizer and a tiny random Hugging Face model, built in a second."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

SPECIAL_TOKENS = ["<|endoftext|>", "<|pad|>"]
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "methane ethane propane butane",
    "C CC CCC CCCC CCO c1ccccc1",
] * 3


def write_tokenizer(folder: Path) -> Path:
    """Byte-level BPE of 300 entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    end, pad = SPECIAL_TOKENS
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=pad).save_pretrained(folder)
    return folder


def write_model(folder: Path, seed: int = 0) -> Path:
    """One layer of four experts with random weights, and its tokenizer."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=320, hidden_size=32, intermediate_size=32, moe_intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=64, initializer_range=0.3, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return write_tokenizer(folder)
