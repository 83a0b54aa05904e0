"""Which Megatron tensor holds the numbers of which Hugging Face tensors: one table, read in both directions.

Megatron stacks layers (and experts) in one tensor each, and fuses query, key and value, and gate and up projection.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from athanor.recipe.families import Family
from athanor.recipe.schema.choices import Router
from athanor.recipe.schema.training import Model

Shape = tuple[int, ...]
Split = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
Join = Callable[[Sequence[torch.Tensor]], torch.Tensor]
EMBEDDING, OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
ROUTER = "decoder.layers.mlp.router.weight"
EXPERT_BIAS = "decoder.layers.mlp.router.expert_bias"
BIAS = "e_score_correction_bias"  # its last name at Hugging Face
HEAD = "lm_head.weight"


class ConversionError(Exception):
    """Tensors that contradict what the table says of them."""


@dataclass(frozen=True)
class Correspondence:
    """One slice of a Megatron checkpoint, and the Hugging Face tensors that hold the same numbers."""

    megatron: str
    index: tuple[int, ...]  # of the slice: layer; layer and expert; nothing for a whole tensor
    shape: Shape  # of the slice
    huggingface: tuple[tuple[str, Shape], ...]
    split: Split  # the slice → the Hugging Face tensors
    join: Join  # the Hugging Face tensors → the slice

    @property
    def values(self) -> int:
        """Numbers in all Hugging Face tensors."""
        return sum(prod(shape) for _, shape in self.huggingface)


def correspondences(model: Model, family: Family, *, head_beside_tied: bool = False) -> Iterator[Correspondence]:
    """Every tensor of `model` as `family` lays it out, in file order; layers one after the other, experts within them.

    Some folders with tied embeddings repeat them as `lm_head.weight` (Qwen3-0.6B does): `head_beside_tied`.
    """
    vocabulary: Shape = (model.vocab_size, model.hidden_size)
    embedding = f"{family.prefix}embed_tokens.weight"
    yield _vocabulary(EMBEDDING, (embedding, HEAD) if head_beside_tied else (embedding,), vocabulary)
    for layer in range(model.num_layers):
        theirs = f"{family.prefix}layers.{layer}."
        yield from _attention(model, layer, theirs)
        yield from _experts(model, layer, theirs) if model.num_experts else _dense(model, layer, theirs)
    yield _one("decoder.final_layernorm.weight", (), f"{family.prefix}norm.weight", (model.hidden_size,))
    if not model.tie_embeddings:
        yield _vocabulary(OUTPUT, (HEAD,), vocabulary)


def type_among(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type that the Hugging Face tensor `name` gets where weights get `dtype`: a router's bias moves by a thousandth a step,
    which bfloat16 would round away, and who loads it keeps it in float32."""
    return torch.float32 if name.endswith(BIAS) else dtype


def stacked_shape(piece: Correspondence, model: Model) -> Shape:
    """The shape of the whole Megatron tensor that `piece` is a slice of."""
    return (*(model.num_layers, model.num_experts)[: len(piece.index)], *piece.shape)


def split_query_key_value(fused: torch.Tensor, model: Model) -> tuple[torch.Tensor, ...]:
    """Query, key and value projections of `linear_qkv` [g·(n/g+2)·d, h].

    Megatron stores group after group: the group's query heads, its key head, its value head (n heads, g groups, width d).
    """
    groups, dim = model.num_query_groups, model.head_dim
    per_group = model.num_attention_heads // groups
    by_group = fused.view(groups, per_group + 2, dim, -1)
    query, key, value = by_group[:, :per_group], by_group[:, per_group], by_group[:, per_group + 1]
    return tuple(part.reshape(-1, fused.shape[-1]) for part in (query, key, value))


def join_query_key_value(parts: Sequence[torch.Tensor], model: Model) -> torch.Tensor:
    """`linear_qkv` of query [n·d, h], key [g·d, h] and value [g·d, h]: what split_query_key_value undoes."""
    groups, dim, hidden = model.num_query_groups, model.head_dim, parts[0].shape[-1]
    by_group = [part.reshape(groups, -1, dim, hidden) for part in parts]
    return torch.cat(by_group, dim=1).view(-1, hidden)


def _one(megatron: str, index: tuple[int, ...], theirs: str, shape: Shape) -> Correspondence:
    return Correspondence(megatron, index, shape, ((theirs, shape),), lambda tensor: (tensor,), lambda parts: parts[0])


def _vocabulary(megatron: str, theirs: tuple[str, ...], shape: Shape) -> Correspondence:
    """Rows of a vocabulary; a tensor-parallel run may have padded them at the end."""

    def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        if any(not torch.equal(part, parts[0]) for part in parts[1:]):
            raise ConversionError(f"tie_word_embeddings=true, but {' and '.join(theirs)} differ: one of both is wrong")
        return parts[0]

    names = tuple((name, shape) for name in theirs)
    return Correspondence(megatron, (), shape, names, lambda tensor: (tensor[: shape[0]],) * len(theirs), join)


def _attention(model: Model, layer: int, theirs: str) -> Iterator[Correspondence]:
    ours = "decoder.layers."
    hidden, dim = model.hidden_size, model.head_dim
    queries, keys = model.num_attention_heads * dim, model.num_query_groups * dim
    # Norms before attention and before a dense MLP are fused with the matrix behind them in Transformer Engine, the one
    # before experts is not; checkpoints name them so for both kinds of layers.
    fused_norm = ours + "self_attention.linear_qkv.layer_norm_weight"
    yield _one(fused_norm, (layer,), theirs + "input_layernorm.weight", (hidden,))
    projections = tuple(
        (f"{theirs}self_attn.{p}_proj.weight", (n, hidden)) for p, n in (("q", queries), ("k", keys), ("v", keys))
    )
    yield Correspondence(
        ours + "self_attention.linear_qkv.weight",
        (layer,),
        (queries + 2 * keys, hidden),
        projections,
        lambda tensor: split_query_key_value(tensor, model),
        lambda parts: join_query_key_value(parts, model),
    )
    yield _one(ours + "self_attention.q_layernorm.weight", (layer,), theirs + "self_attn.q_norm.weight", (dim,))
    yield _one(ours + "self_attention.k_layernorm.weight", (layer,), theirs + "self_attn.k_norm.weight", (dim,))
    output = ours + "self_attention.linear_proj.weight"
    yield _one(output, (layer,), theirs + "self_attn.o_proj.weight", (hidden, queries))
    norm = ours + ("pre_mlp_layernorm.weight" if model.num_experts else "mlp.linear_fc1.layer_norm_weight")
    yield _one(norm, (layer,), theirs + "post_attention_layernorm.weight", (hidden,))


def _experts(model: Model, layer: int, theirs: str) -> Iterator[Correspondence]:
    yield _one(ROUTER, (layer,), theirs + "mlp.gate.weight", (model.num_experts, model.hidden_size))
    if model.router is Router.LOSS_FREE:
        yield _one(EXPERT_BIAS, (layer,), f"{theirs}mlp.gate.{BIAS}", (model.num_experts,))
    if model.shared_experts:
        inner = model.shared_experts * model.expert_ffn_size
        ours, into = "decoder.layers.mlp.shared_experts.", theirs + "mlp.shared_experts."
        yield from _swiglu(model.hidden_size, inner, ours, (layer,), into)
    for expert in range(model.num_experts):
        into = f"{theirs}mlp.experts.{expert}."
        yield from _swiglu(model.hidden_size, model.expert_ffn_size, "decoder.layers.mlp.experts.experts.", (layer, expert), into)


def _dense(model: Model, layer: int, theirs: str) -> Iterator[Correspondence]:
    yield from _swiglu(model.hidden_size, model.expert_ffn_size, "decoder.layers.mlp.", (layer,), theirs + "mlp.")


def _swiglu(hidden: int, inner: int, ours: str, index: tuple[int, ...], theirs: str) -> Iterator[Correspondence]:
    """down(silu(gate(x)) * up(x)); Megatron holds gate above up in one matrix."""
    gate_and_up = ((theirs + "gate_proj.weight", (inner, hidden)), (theirs + "up_proj.weight", (inner, hidden)))
    fused = (2 * inner, hidden)
    yield Correspondence(
        ours + "linear_fc1.weight",
        index,
        fused,
        gate_and_up,
        lambda tensor: tensor.chunk(2),
        lambda parts: torch.cat(list(parts)),
    )
    yield _one(ours + "linear_fc2.weight", index, theirs + "down_proj.weight", (hidden, inner))
