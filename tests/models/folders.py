"""Tiny Hugging Face folders of every family that converts, with random weights."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.evaluation.tiny import write_tokenizer

VOCABULARY = 320
# No two sizes are equal, so that a wrong transposition cannot pass.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "initializer_range": 0.2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 56, "norm_topk_prob": True}
SHARED: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 56, "n_shared_experts": 1, "use_qk_norm": True,
    "first_k_dense_replace": 0, "num_mtp_layers": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 1.0},
}  # fmt: skip
DENSE, MOE, LOSS_FREE, INTERN_S1 = "qwen3", "qwen3_moe", "glm4_moe", "interns1"
INTERN_PREFIX = "model.language_model."


def write_folder(
    folder: Path, family: str, *, tie: bool = False, dtype: torch.dtype = torch.float32, shard: str = "5GB", seed: int = 1
) -> Path:
    """A folder as transformers saves it, with a tokenizer; of Intern-S1 as InternLM publishes it."""
    if family == INTERN_S1:
        return _write_intern_s1(folder, tie=tie, dtype=dtype, seed=seed)
    random_model(family, tie=tie, dtype=dtype, seed=seed).save_pretrained(folder, max_shard_size=shard)
    return write_tokenizer(folder)


def random_model(family: str, *, tie: bool, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """Random weights, norms among them: fresh ones are all ones, and a swapped pair would not show."""
    torch.manual_seed(seed)
    model: PreTrainedModel
    if family == DENSE:
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=tie))
    elif family == LOSS_FREE:
        model = Glm4MoeForCausalLM(Glm4MoeConfig(**{**SIZES, **SHARED}, tie_word_embeddings=tie))
    else:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS, tie_word_embeddings=tie))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
            if name.endswith("gate.weight") and family == LOSS_FREE:
                weight.normal_(std=0.2)  # transformers leaves zeros
        for name, bias in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                bias.normal_(std=0.1)
    return model.to(dtype)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file by its path."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


def edit_config(folder: Path, **keys: Any) -> None:
    """Change keys of config.json; None takes one out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def _write_intern_s1(folder: Path, *, tie: bool, dtype: torch.dtype, seed: int) -> Path:
    """transformers has no class for it: a Qwen3-MoE under its prefix, a vision tower and a projector beside it."""
    text = folder.with_name(f"{folder.name}-text")
    random_model(MOE, tie=tie, dtype=dtype, seed=seed).save_pretrained(text)
    config = json.loads((text / "config.json").read_text())
    weights = load_file(text / "model.safetensors")
    shutil.rmtree(text)
    tower = {f"model.vision_tower.encoder.layer.{i}.attention.q_proj.weight": torch.randn(24, 24) for i in range(3)}
    others = {**tower, "model.multi_modal_projector.linear_1.weight": torch.randn(48, 24)}
    others = {name: weight.to(dtype) for name, weight in others.items()}
    others["model.vision_tower.embeddings.position_ids"] = torch.arange(9)  # an integer, as some towers keep
    named = {INTERN_PREFIX + name.removeprefix("model.") if name.startswith("model.") else name: w for name, w in weights.items()}
    names = sorted(named)
    files = {
        "model-00001-of-00003.safetensors": {n: others[n] for n in list(others)[:2]},
        "model-00002-of-00003.safetensors": {n: named[n] for n in names[::2]} | {n: others[n] for n in list(others)[2:]},
        "model-00003-of-00003.safetensors": {n: named[n] for n in names[1::2]},
    }
    folder.mkdir(parents=True)
    for name, held in files.items():
        save_file({n: w.contiguous() for n, w in held.items()}, folder / name, metadata={"format": "pt", "by": "a test"})
    total = sum(w.nbytes for held in files.values() for w in held.values())
    index = {"metadata": {"total_size": total}, "weight_map": {n: name for name, held in files.items() for n in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    described = {
        "architectures": ["InternS1ForConditionalGeneration"], "auto_map": {"AutoConfig": "configuration_interns1.Config"},
        "model_type": "interns1", "image_token_id": 318, "vision_config": {"hidden_size": 24}, "torch_dtype": "bfloat16",
        "text_config": {**config, "unknown_key": [1, None]}, "tie_word_embeddings": tie,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(described, indent=3))
    (folder / "configuration_interns1.py").write_text("# code of the model\n")
    return write_tokenizer(folder)
