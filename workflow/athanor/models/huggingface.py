"""Turns a Megatron checkpoint into a Hugging Face folder, tensor by tensor, and proves that it loads.

The folder is Qwen3-MoE, Qwen3 where the decoder has no experts, or Glm4Moe where its router is `loss_free`: the layouts of this
decoder that transformers, vLLM and SGLang read.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, Glm4MoeConfig, PretrainedConfig, Qwen3Config, Qwen3MoeConfig

from athanor.artifacts.files import write_atomically
from athanor.models.chat_template import chat_template
from athanor.models.conversions import correspondences, type_among
from athanor.models.folder_files import OPTIONAL_TOKENIZER_FILES, TOKENIZER_FILES
from athanor.models.weight_files import ExportError, headers, open_checkpoint, plan_shards, verify, write_index, write_weights
from athanor.recipe.families import CONFIG, GLM4_MOE, QWEN3, QWEN3_MOE, family_of
from athanor.recipe.finetuning import TURN_ENDS
from athanor.recipe.schema.choices import Precision, Router
from athanor.recipe.schema.recipe import Export
from athanor.recipe.schema.training import Model

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}


@dataclass(frozen=True)
class Exported:
    """What was written: file names below the folder, parameters, and bytes of weights."""

    files: tuple[str, ...]
    parameters: int
    weight_bytes: int


def configuration(model: Model, dtype: torch.dtype, eos_token_id: int | None, pad_token_id: int | None) -> PretrainedConfig:
    """The config.json of `model`. Raises ExportError where Qwen3 cannot express it."""
    if not model.qk_norm:
        raise ExportError(
            "recipe: model.qk_norm=false has no place in Qwen3 and Qwen3-MoE, which always normalise queries and keys; "
            "set model.qk_norm=true (and train anew), or leave the export stages out"
        )
    decoder: dict[str, Any] = {
        "dtype": dtype,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.expert_ffn_size,  # of dense layers
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_sequence_length,
        "initializer_range": model.init_std,
        "rms_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model.rope_base)},
        "attention_bias": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
        "pad_token_id": pad_token_id,
    }
    if not model.num_experts:
        return Qwen3Config(architectures=[QWEN3], **decoder)
    if model.router is Router.LOSS_FREE:
        return _loss_free(model, decoder)
    return Qwen3MoeConfig(
        architectures=[QWEN3_MOE],
        moe_intermediate_size=model.expert_ffn_size,
        num_experts=model.num_experts,
        num_experts_per_tok=model.experts_per_token,
        # Megatron takes the softmax after the top-k, which is a renormalised one; for top-1 it demands the plain softmax.
        norm_topk_prob=model.experts_per_token > 1,
        router_aux_loss_coef=model.aux_loss_coefficient,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        **decoder,
    )


def _loss_free(model: Model, decoder: dict[str, Any]) -> Glm4MoeConfig:
    """All layers with experts, one group of them, whole heads turned by their positions, no tokens predicted beyond the next."""
    rope = {**decoder.pop("rope_parameters"), "partial_rotary_factor": 1.0}
    del decoder["use_sliding_window"]
    return Glm4MoeConfig(
        architectures=[GLM4_MOE],
        moe_intermediate_size=model.expert_ffn_size,
        n_routed_experts=model.num_experts,
        num_experts_per_tok=model.experts_per_token,
        n_shared_experts=model.shared_experts,
        norm_topk_prob=True,
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        use_qk_norm=True,
        num_mtp_layers=0,
        rope_parameters=rope,
        **decoder,
    )


def export(
    checkpoint: Path,
    tokenizer: Path,
    folder: Path,
    model: Model,
    settings: Export,
    progress: Callable[[int, int], None],
    *,
    chat: bool = False,
) -> Exported:
    """Write `checkpoint` as a Hugging Face folder with the tokenizer's files, then verify it.

    Memory is one tensor's. Finished weight files of an interrupted export are kept. `progress` is told (weight files
    done, weight files in all). A model that was taught to `chat` ends where its turn ends. Raises CheckpointError and
    ExportError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_files = copy_tokenizer(tokenizer, folder)
    if chat:
        teach_to_chat(folder)
    eos, pad = special_tokens(folder)
    dtype = DTYPES[settings.dtype]
    configuration(model, dtype, eos, pad).save_pretrained(folder)
    GenerationConfig(eos_token_id=eos, pad_token_id=pad).save_pretrained(folder)

    table = list(correspondences(model, family_of(model)))
    source = open_checkpoint(checkpoint, model, table)
    layout = headers(plan_shards(table, dtype.itemsize, settings.max_shard_bytes), lambda name: type_among(name, dtype))
    write_weights(folder, layout, source, table, progress)
    files = [*tokenizer_files, CONFIG, "generation_config.json", *layout, *write_index(folder, layout)]
    verify(folder, layout)
    weight_bytes = sum(entry.bytes for header in layout.values() for entry in header.entries.values())
    return Exported(tuple(sorted(files)), sum(piece.values for piece in table), weight_bytes)


def copy_tokenizer(tokenizer: Path, folder: Path) -> list[str]:
    """Copy a tokenizer's files into `folder`; their names."""
    names = [*TOKENIZER_FILES, *(name for name in OPTIONAL_TOKENIZER_FILES if (tokenizer / name).is_file())]
    for name in names:
        shutil.copyfile(tokenizer / name, folder / name)
    return names


def teach_to_chat(folder: Path, virtual: Sequence[str] = ()) -> None:
    """Put the chat template into the tokenizer's config, and have it stop where a turn ends; `virtual` tokens begin all."""
    path = folder / TOKENIZER_FILES[1]
    config = json.loads(path.read_text())
    config |= {"chat_template": chat_template(virtual), "eos_token": TURN_ENDS}
    write_atomically(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def special_tokens(folder: Path) -> tuple[int | None, int | None]:
    """Ids of the end-of-text and the padding token, as the tokenizer itself says."""
    config = PretrainedConfig()  # without one, AutoTokenizer looks for a config.json that is not written yet
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    return tokenizer.eos_token_id, tokenizer.pad_token_id
