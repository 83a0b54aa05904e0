"""A small random decoder with its tokenizer, as `export` leaves one, and pairs that a head on it can learn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athanor.rewards.polar.ranks import Ranked
from athanor.rewards.polar.triples import Triple

WORDS = ["<|endoftext|>", "<|pad|>", "\n", *(f"w{i}" for i in range(37))]
PADDING = 1


def write_backbone(folder: Path, *, experts: int, seed: int = 3) -> Path:
    """Qwen3, or Qwen3-MoE, of 40 words."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(WORDS), "max_position_embeddings": 256}
    routed = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    model: Any = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **routed)) if experts else Qwen3ForCausalLM(Qwen3Config(**shape))
    model.save_pretrained(folder)
    _write_tokenizer(folder, WORDS)
    return folder


def write_turned(source: Path, folder: Path) -> None:
    """The model of `source` with its words, all but the first two, in the opposite order."""
    import torch
    from transformers import AutoModelForCausalLM

    order = [0, 1, *range(len(WORDS) - 1, 1, -1)]
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
            weight.copy_(weight[order].clone())
    model.save_pretrained(folder)
    _write_tokenizer(folder, [WORDS[place] for place in order])


def _write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>").save_pretrained(folder)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of dense layers."""
    return write_backbone(tmp_path_factory.mktemp("dense"), experts=0)


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of experts."""
    return write_backbone(tmp_path_factory.mktemp("routed"), experts=4)


def triples(count: int, seed: int = 0) -> list[Triple]:
    """Policies that speak with the lower or the upper half of the words."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        low = bool(random.integers(2))
        own, other = [random.integers(3, 20, size=(2, 8)), random.integers(20, 37, size=(2, 8))][:: 1 if low else -1]
        prefix = tuple(random.integers(3, 37, size=random.integers(1, 6)).tolist())
        texts = [tuple(row.tolist()) for row in (own[0], own[1], other[0])]
        made.append(Triple(prefix, texts[0], texts[1], texts[2], "low" if low else "high", "high" if low else "low", str(number)))
    return made


def ranks(count: int, seed: int) -> list[Ranked]:
    """The more of an answer's words are those of the best, the better it is."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        best = random.integers(0, 18, size=8)
        answers = [np.where(np.arange(8) < kept, best, random.integers(18, 37, size=8)) for kept in (8, 6, 1)]
        texts = tuple(" ".join(f"w{word}" for word in answer) for answer in answers)
        found.append(Ranked(str(number), "w1 w2", texts))  # type: ignore[arg-type]
    return found
