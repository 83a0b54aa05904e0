"""What a precision means: Megatron's fields for it, the machine it needs, and the weights that stay out of FP8.

In every FP8 precision attention's and the experts' matrices multiply in FP8, and everything else computes as under BF16:
embedding, output layer, router, norms, the attention between queries and keys, and the layers at both ends that the recipe
names. Weights are BF16, master weights and gradients float32.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from athanor.artifacts.run import StageError
from athanor.models.fp8_emulated import BlockScaling
from athanor.recipe.schema.choices import Dispatch, Precision
from athanor.recipe.schema.training import Model, Parallel, Training


class PrecisionError(StageError):
    """A precision this machine cannot compute in."""


@dataclass(frozen=True)
class TransformerEngineRecipe:
    """One of Transformer Engine's FP8 recipes, in Megatron's words, and the oldest GPU that has it."""

    fp8_recipe: str
    fp8: str  # e4m3: all numbers; hybrid: gradients are e5m2
    capability: tuple[int, int]  # CUDA compute capability


# One scale a tensor leaves gradients too little range in e4m3, so their numbers get e5m2's exponents. A scale for each tile
# gives the range: DeepSeek-V3 (arXiv 2412.19437, section 3.3.2) and Transformer Engine's defaults for both kinds of blocks
# spend the bit on the mantissa.
RECIPES = {
    Precision.FP8_DELAYED: TransformerEngineRecipe("delayed", "hybrid", (8, 9)),
    Precision.FP8_TENSORWISE: TransformerEngineRecipe("tensorwise", "hybrid", (8, 9)),
    Precision.FP8_BLOCKWISE: TransformerEngineRecipe("blockwise", "e4m3", (9, 0)),
    Precision.MXFP8: TransformerEngineRecipe("mxfp8", "e4m3", (10, 0)),
}
EMULATED = {Precision.FP8_EMULATED: BlockScaling()}


@dataclass(frozen=True)
class Bf16Layers:
    """How many layers at the start and at the end of the model stay out of FP8."""

    first: int = 0
    last: int = 0

    @staticmethod
    def of(settings: Training) -> "Bf16Layers":
        """What the recipe says."""
        return Bf16Layers(settings.bf16_first_layers, settings.bf16_last_layers)


@dataclass(frozen=True)
class Machine:
    """What decides which precisions it computes in."""

    capability: tuple[int, int] | None  # CUDA compute capability of its GPU; None without one
    transformer_engine: bool

    @staticmethod
    def this() -> "Machine":
        """The one that this process runs on."""
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
        return Machine(capability, importlib.util.find_spec("transformer_engine") is not None)


def refuse_unless_possible(precision: Precision, machine: Machine) -> None:
    """Raises PrecisionError where `machine` cannot compute in `precision`: Megatron would train on in BF16 without a word
    (fp8_utils.py: a null context)."""
    name = f"pretrain.precision={precision.value}"
    if precision in EMULATED and machine.capability is not None:
        raise PrecisionError(f"{name} emulates on a CPU what fp8_blockwise computes; this machine has a GPU: use fp8_blockwise")
    if precision not in RECIPES:
        return
    if machine.capability is None or not machine.transformer_engine:
        missing = "a GPU" if machine.capability is None else "the package transformer-engine"
        raise PrecisionError(
            f"{name} needs Transformer Engine on a GPU, and {missing} is missing here; "
            "use fp32, bf16 or (on a CPU) fp8_emulated, or run in the environment `gpu`"
        )
    needed = RECIPES[precision].capability
    if machine.capability < needed:
        has, legal = _dotted(machine.capability), [p.value for p, r in RECIPES.items() if r.capability <= machine.capability]
        raise PrecisionError(
            f"{name} needs a GPU of compute capability {_dotted(needed)} or above, this one has {has}; "
            f"use {' or '.join(['bf16', *legal])}"
        )


def precision_fields(precision: Precision, kept: Bf16Layers, parallel: Parallel) -> dict[str, Any]:
    """The fields of Megatron's TransformerConfig. `fp8_emulated` has none of FP8's: they would ask for Transformer Engine."""
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    fields: dict[str, Any] = {"bf16": dtype is torch.bfloat16, "params_dtype": dtype, "pipeline_dtype": dtype}
    if recipe := RECIPES.get(precision):
        fields |= {"fp8": recipe.fp8, "fp8_recipe": recipe.fp8_recipe}
        # Tokens of an expert come in multiples of the tile; with all-gather Megatron fills up behind the dispatch instead.
        fields["moe_router_padding_for_quantization"] = parallel.dispatch is Dispatch.ALLTOALL
    if kept != Bf16Layers():
        ends = {"num_layers_at_start_in_bf16": kept.first, "num_layers_at_end_in_bf16": kept.last}
        fields |= {"first_last_layers_bf16": True, **ends}
    return fields


def declaration(model: Model, precision: Precision, kept: Bf16Layers) -> str:
    """One line for the log: how many weights of the whole model multiply in which numbers, and which they are."""
    eight_bits, others = weights_by_arithmetic(model, precision, kept)
    if not eight_bits:
        return f"precision {precision.value}: all {others:,} weights"
    layers = range(1, model.num_layers + 1)
    ends = [part for part in (layers[: kept.first], layers[len(layers) - kept.last :]) if part]
    spans = [f"layer {part[0]}" if len(part) == 1 else f"layers {part[0]} to {part[-1]}" for part in ends]
    return (
        f"precision {precision.value}: {eight_bits:,} weights multiply in FP8 (linear_qkv, linear_proj and the experts' "
        f"linear_fc1 and linear_fc2 of {len(layers) - kept.first - kept.last} layers), {others:,} in BF16 "
        f"({', '.join([*spans, 'embedding, output layer, router, norms'])})"
    )


def weights_by_arithmetic(model: Model, precision: Precision, kept: Bf16Layers) -> tuple[int, int]:
    """Weights of the whole model that multiply in FP8, and the others."""
    heads, groups = model.num_attention_heads * model.head_dim, model.num_query_groups * model.head_dim
    attention = model.hidden_size * (heads + 2 * groups) + heads * model.hidden_size
    mlps = model.num_experts + model.shared_experts or 1  # of a dense layer one
    matrices = attention + mlps * 3 * model.hidden_size * model.expert_ffn_size
    router_and_norms = model.hidden_size * (model.num_experts + 2) + 2 * model.head_dim * model.qk_norm
    ends = model.hidden_size * (model.vocab_size * (1 if model.tie_embeddings else 2) + 1)
    eight_bits = (model.num_layers - kept.first - kept.last) * matrices if precision.is_fp8 else 0
    return eight_bits, model.num_layers * (matrices + router_and_norms) + ends - eight_bits


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
