"""Turns a Megatron checkpoint into a Hugging Face Qwen3-MoE folder, tensor by tensor, and proves that it loads.

Qwen3-MoE is the layout of this decoder that transformers, vLLM and SGLang read: one tensor an expert and projection.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig, Qwen3MoeConfig

from athanor.models.torch_dist import CheckpointError, ShardedCheckpoint
from athanor.recipe.schema import Export, Model, Precision

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = ("special_tokens_map.json", "chat_template.jinja")
INDEX_FILE = "model.safetensors.index.json"

Shape = tuple[int, ...]
Convert = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


class ExportError(Exception):
    """A model that has no place in the Hugging Face layout, or a folder that does not load."""


@dataclass(frozen=True)
class Conversion:
    """One slice of the checkpoint and the Hugging Face tensors made of it."""

    source: str
    index: tuple[int, ...]
    targets: tuple[tuple[str, Shape], ...]
    convert: Convert

    @property
    def values(self) -> int:
        """Numbers in all targets."""
        return sum(prod(shape) for _, shape in self.targets)


@dataclass(frozen=True)
class Exported:
    """What was written: file names below the folder, parameters, and bytes of weights."""

    files: tuple[str, ...]
    parameters: int
    weight_bytes: int


def configuration(model: Model, dtype: torch.dtype, eos_token_id: int | None, pad_token_id: int | None) -> Qwen3MoeConfig:
    """The config.json of `model`. Raises ExportError where Qwen3-MoE cannot express it."""
    if not model.qk_norm:
        raise ExportError(
            "recipe: model.qk_norm=false has no place in Qwen3-MoE, which always normalises queries and keys; "
            "set model.qk_norm=true (and train anew), or leave the export stages out"
        )
    return Qwen3MoeConfig(
        architectures=["Qwen3MoeForCausalLM"],
        dtype=dtype,
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.expert_ffn_size,  # of dense layers, which this model has none of
        moe_intermediate_size=model.expert_ffn_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        head_dim=model.head_dim,  # type: ignore[call-arg]  # read by the model, not declared by its config
        hidden_act="silu",
        max_position_embeddings=model.max_sequence_length,
        initializer_range=model.init_std,
        rms_norm_eps=model.norm_epsilon,
        tie_word_embeddings=model.tie_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": float(model.rope_base)},
        attention_bias=False,
        use_sliding_window=False,
        num_experts=model.num_experts,
        num_experts_per_tok=model.experts_per_token,
        # Megatron takes the softmax after the top-k, which is a renormalised one; for top-1 it demands the plain softmax.
        norm_topk_prob=model.experts_per_token > 1,
        router_aux_loss_coef=model.aux_loss_coefficient,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def split_query_key_value(fused: torch.Tensor, model: Model) -> tuple[torch.Tensor, ...]:
    """Query, key and value projections of `linear_qkv` [g·(n/g+2)·d, h].

    Megatron stores group after group: the group's query heads, its key head, its value head (n heads, g groups, width d).
    """
    groups, dim = model.num_query_groups, model.head_dim
    per_group = model.num_attention_heads // groups
    by_group = fused.view(groups, per_group + 2, dim, -1)
    query, key, value = by_group[:, :per_group], by_group[:, per_group], by_group[:, per_group + 1]
    return tuple(part.reshape(-1, fused.shape[-1]) for part in (query, key, value))


def conversions(model: Model) -> Iterator[Conversion]:
    """Every tensor of the exported model, in file order; layers one after the other, experts within them."""
    vocabulary: Shape = (model.vocab_size, model.hidden_size)
    yield _vocabulary("embedding.word_embeddings.weight", "model.embed_tokens.weight", vocabulary)
    for layer in range(model.num_layers):
        yield from _attention(model, layer)
        yield from _experts(model, layer)
    yield _one("decoder.final_layernorm.weight", (), "model.norm.weight", (model.hidden_size,))
    if not model.tie_embeddings:
        yield _vocabulary("output_layer.weight", "lm_head.weight", vocabulary)


def export(
    checkpoint: Path,
    tokenizer: Path,
    folder: Path,
    model: Model,
    settings: Export,
    progress: Callable[[int, int], None],
) -> Exported:
    """Write `checkpoint` as a Hugging Face folder with the tokenizer's files, then verify it.

    At most `max_shard_bytes` of weights are in memory at a time. Finished weight files of an interrupted export are kept.
    `progress` is told (weight files done, weight files in all). Raises CheckpointError and ExportError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_files = _copy_tokenizer(tokenizer, folder)
    eos, pad = _special_tokens(folder)
    dtype = DTYPES[settings.dtype]
    config = configuration(model, dtype, eos, pad)
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=eos, pad_token_id=pad).save_pretrained(folder)

    source = ShardedCheckpoint(checkpoint)
    _refuse_leftovers(source, model)
    shards = plan_shards(conversions(model), dtype.itemsize, settings.max_shard_bytes)
    for done, (name, pieces) in enumerate(shards.items()):
        progress(done, len(shards))
        if not (folder / name).is_file():
            _write_shard(folder / name, source, pieces, dtype)
    progress(len(shards), len(shards))
    files = [*tokenizer_files, "config.json", "generation_config.json", *shards]
    parameters = sum(piece.values for pieces in shards.values() for piece in pieces)
    if len(shards) > 1:
        _write_index(folder, shards, parameters * dtype.itemsize)
        files.append(INDEX_FILE)
    verify(folder, shards, dtype)
    return Exported(tuple(sorted(files)), parameters, parameters * dtype.itemsize)


def plan_shards(pieces: Iterable[Conversion], itemsize: int, max_shard_bytes: int) -> dict[str, list[Conversion]]:
    """File name → what it holds. A file is filled until the next piece would pass the limit; one larger piece stands alone."""
    groups: list[list[Conversion]] = [[]]
    filled = 0
    for piece in pieces:
        size = piece.values * itemsize
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def verify(folder: Path, shards: dict[str, list[Conversion]], dtype: torch.dtype) -> None:
    """Open the folder as a user would: every tensor is in its file, and transformers misses and ignores none.

    The model is built on the meta device, so this costs no memory. Raises ExportError with what is wrong.
    """
    wrong = [problem for name, pieces in shards.items() for problem in _compare_file(folder / name, pieces, dtype)]
    if not wrong:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, device_map="meta", output_loading_info=True)
        report: dict[str, Any] = loaded[1]
        wrong = [f"{kind}: {', '.join(map(str, sorted(found)[:5]))}" for kind, found in report.items() if found]
    if wrong:
        raise ExportError(f"{folder} does not load as Qwen3-MoE: {'; '.join(wrong[:10])}; delete the folder and export again")


def _one(source: str, index: tuple[int, ...], target: str, shape: Shape) -> Conversion:
    return Conversion(source, index, ((target, shape),), lambda tensor: (tensor,))


def _vocabulary(source: str, target: str, shape: Shape) -> Conversion:
    """Rows of a vocabulary; a tensor-parallel run may have padded them at the end."""
    return Conversion(source, (), ((target, shape),), lambda tensor: (tensor[: shape[0]],))


def _attention(model: Model, layer: int) -> Iterator[Conversion]:
    theirs, ours = f"model.layers.{layer}.", "decoder.layers."
    hidden, dim = model.hidden_size, model.head_dim
    queries, keys = model.num_attention_heads * dim, model.num_query_groups * dim
    norm: Shape = (hidden,)
    # The norm before attention is fused with linear_qkv in Transformer Engine; checkpoints name it so for both specs.
    fused_norm = ours + "self_attention.linear_qkv.layer_norm_weight"
    yield _one(fused_norm, (layer,), theirs + "input_layernorm.weight", norm)
    projections = tuple(
        (f"{theirs}self_attn.{p}_proj.weight", (n, hidden)) for p, n in (("q", queries), ("k", keys), ("v", keys))
    )
    fused = ours + "self_attention.linear_qkv.weight"
    yield Conversion(fused, (layer,), projections, lambda tensor: split_query_key_value(tensor, model))
    yield _one(ours + "self_attention.q_layernorm.weight", (layer,), theirs + "self_attn.q_norm.weight", (dim,))
    yield _one(ours + "self_attention.k_layernorm.weight", (layer,), theirs + "self_attn.k_norm.weight", (dim,))
    output = ours + "self_attention.linear_proj.weight"
    yield _one(output, (layer,), theirs + "self_attn.o_proj.weight", (hidden, queries))
    yield _one(ours + "pre_mlp_layernorm.weight", (layer,), theirs + "post_attention_layernorm.weight", norm)


def _experts(model: Model, layer: int) -> Iterator[Conversion]:
    theirs, ours = f"model.layers.{layer}.mlp.", "decoder.layers.mlp."
    hidden, inner = model.hidden_size, model.expert_ffn_size
    yield _one(ours + "router.weight", (layer,), theirs + "gate.weight", (model.num_experts, hidden))
    for expert in range(model.num_experts):
        at, into = (layer, expert), f"{theirs}experts.{expert}."
        gate_and_up = ((into + "gate_proj.weight", (inner, hidden)), (into + "up_proj.weight", (inner, hidden)))
        yield Conversion(ours + "experts.experts.linear_fc1.weight", at, gate_and_up, lambda tensor: tensor.chunk(2))
        yield _one(ours + "experts.experts.linear_fc2.weight", at, into + "down_proj.weight", (hidden, inner))


def _refuse_leftovers(source: ShardedCheckpoint, model: Model) -> None:
    """Weights of the checkpoint that the export would drop (a shared expert, a bias) change the model: refuse."""
    used = {piece.source for piece in conversions(model)}
    left = [name for name in source.weights() if name not in used]
    if left:
        raise ExportError(f"{source.folder} holds weights that Qwen3-MoE has no place for: {', '.join(left[:10])}")
    layers = source.shape("decoder.layers.mlp.router.weight")[0]
    if layers != model.num_layers:
        raise CheckpointError(f"{source.folder} has {layers} layers, recipe: model.num_layers={model.num_layers}")


def _write_shard(path: Path, source: ShardedCheckpoint, pieces: Sequence[Conversion], dtype: torch.dtype) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for piece in pieces:
        converted = piece.convert(source.read(piece.source, piece.index))
        for (name, shape), tensor in zip(piece.targets, converted, strict=True):
            if tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{source.folder}: {piece.source} gives {name} the shape {tuple(tensor.shape)}, the recipe's model "
                    f"wants {shape}; was it trained with another recipe?"
                )
            tensors[name] = tensor.to(dtype).contiguous()
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={"format": "pt"})
    shutil.copymode(path.with_name("config.json"), temporary)  # safetensors makes it 0600: a group shares the store
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_index(folder: Path, shards: dict[str, list[Conversion]], total_bytes: int) -> None:
    where = {target: name for name, pieces in shards.items() for piece in pieces for target, _ in piece.targets}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _compare_file(path: Path, pieces: Sequence[Conversion], dtype: torch.dtype) -> Iterator[str]:
    expected = {name: shape for piece in pieces for name, shape in piece.targets}
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if missing := expected.keys() - found.keys():
            yield f"{path.name} lacks {', '.join(sorted(missing)[:5])}"
        if surplus := found.keys() - expected.keys():
            yield f"{path.name} has also {', '.join(sorted(surplus)[:5])}"
        letters = {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
        for name in sorted(expected.keys() & found.keys()):
            shape, kind = tuple(found[name].get_shape()), found[name].get_dtype()
            if (shape, kind) != (expected[name], letters):
                yield f"{path.name}: {name} is {kind} {shape}, not {letters} {expected[name]}"


def _copy_tokenizer(tokenizer: Path, folder: Path) -> list[str]:
    names = [*TOKENIZER_FILES, *(name for name in OPTIONAL_TOKENIZER_FILES if (tokenizer / name).is_file())]
    for name in names:
        shutil.copyfile(tokenizer / name, folder / name)
    return names


def _special_tokens(folder: Path) -> tuple[int | None, int | None]:
    """Ids of the end-of-text and the padding token, as the tokenizer itself says."""
    config = PretrainedConfig()  # without one, AutoTokenizer looks for a config.json that is not written yet
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    return tokenizer.eos_token_id, tokenizer.pad_token_id
