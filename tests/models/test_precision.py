"""What every precision asks of Megatron and of the machine, and which layers and weights it leaves in BF16."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from athanor.models.language_model import build_language_model, transformer_config
from athanor.models.linear_cpu import BlockScaledLinear
from athanor.models.precision import (
    Bf16Layers,
    Machine,
    PrecisionError,
    declaration,
    precision_fields,
    refuse_unless_possible,
    weights_by_arithmetic,
)
from athanor.recipe.schema.choices import Dispatch, Precision, Router
from athanor.recipe.schema.training import Model, Parallel
from athanor.training.layout import process_groups
from tests.models.absent_world import as_rank

SHAPE = Model(
    num_layers=8, hidden_size=32, num_attention_heads=4, num_query_groups=2, head_dim=8, num_experts=4,
    expert_ffn_size=24, vocab_size=320, max_sequence_length=64,
)  # fmt: skip
BF16 = {"bf16": True, "params_dtype": torch.bfloat16, "pipeline_dtype": torch.bfloat16}
FP32 = {"bf16": False, "params_dtype": torch.float32, "pipeline_dtype": torch.float32}
PADDED = {"moe_router_padding_for_quantization": True}
FIELDS: dict[Precision, dict[str, Any]] = {
    Precision.FP32: FP32,
    Precision.BF16: BF16,
    Precision.FP8_DELAYED: {**BF16, "fp8": "hybrid", "fp8_recipe": "delayed", **PADDED},
    Precision.FP8_TENSORWISE: {**BF16, "fp8": "hybrid", "fp8_recipe": "tensorwise", **PADDED},
    Precision.FP8_BLOCKWISE: {**BF16, "fp8": "e4m3", "fp8_recipe": "blockwise", **PADDED},
    Precision.MXFP8: {**BF16, "fp8": "e4m3", "fp8_recipe": "mxfp8", **PADDED},
    Precision.FP8_EMULATED: BF16,
}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="layers of a CPU: pytest on a machine without a GPU runs this")
CPU, HOPPER, BLACKWELL = Machine(None, False), Machine((9, 0), True), Machine((10, 0), True)


@pytest.mark.parametrize("precision", Precision)
def test_precision_is_these_fields_of_megatrons(precision: Precision) -> None:
    assert precision_fields(precision, Bf16Layers(), Parallel()) == FIELDS[precision]


def test_all_gather_leaves_padding_to_the_experts() -> None:
    gathered = Parallel(ranks=2, expert=2, dispatch=Dispatch.ALLGATHER)
    fields = precision_fields(Precision.FP8_BLOCKWISE, Bf16Layers(), gathered)
    assert fields["moe_router_padding_for_quantization"] is False


def test_layers_at_the_ends_are_megatrons_fields() -> None:
    fields = precision_fields(Precision.MXFP8, Bf16Layers(first=2, last=1), Parallel())
    ends = {"first_last_layers_bf16": True, "num_layers_at_start_in_bf16": 2, "num_layers_at_end_in_bf16": 1}
    assert fields == {**FIELDS[Precision.MXFP8], **ends}


@pytest.mark.parametrize(
    ("precision", "machine", "words"),
    [
        (Precision.FP32, CPU, ""),
        (Precision.BF16, HOPPER, ""),
        (Precision.FP8_EMULATED, CPU, ""),
        (Precision.FP8_EMULATED, HOPPER, "emulates on a CPU what fp8_blockwise computes"),
        (Precision.FP8_DELAYED, CPU, "needs Transformer Engine on a GPU, and a GPU is missing here"),
        (Precision.FP8_BLOCKWISE, CPU, "and a GPU is missing here; use fp32, bf16 or (on a CPU) fp8_emulated"),
        (Precision.MXFP8, CPU, "and a GPU is missing here"),
        (Precision.FP8_BLOCKWISE, replace(HOPPER, transformer_engine=False), "the package transformer-engine is missing here"),
        (Precision.FP8_BLOCKWISE, HOPPER, ""),
        (Precision.FP8_BLOCKWISE, Machine((8, 9), True), "capability 9.0 or above, this one has 8.9; use bf16 or fp8_delayed"),
        (Precision.FP8_DELAYED, Machine((8, 0), True), "capability 8.9 or above, this one has 8.0; use bf16"),
        (Precision.MXFP8, HOPPER, "pretrain.precision=mxfp8 needs a GPU of compute capability 10.0 or above, this one has 9.0"),
        (Precision.MXFP8, BLACKWELL, ""),
    ],
)  # fmt: skip
def test_machine_that_cannot_is_refused_by_name(precision: Precision, machine: Machine, words: str) -> None:
    if not words:
        refuse_unless_possible(precision, machine)
        return
    with pytest.raises(PrecisionError) as refused:
        refuse_unless_possible(precision, machine)
    assert words in str(refused.value)


@NO_GPU
@pytest.mark.parametrize("precision", [p for p in Precision if p.is_fp8 and p is not Precision.FP8_EMULATED])
def test_fp8_is_an_error_here_not_bf16(precision: Precision) -> None:
    with process_groups(Parallel(), seed=5), pytest.raises(PrecisionError, match=f"{precision.value} needs Transformer Engine"):
        build_language_model(SHAPE, Parallel(), precision)


def _block_scaled(chunk: Any) -> Iterator[tuple[int, str, torch.nn.Parameter]]:
    """Layer number (from 1), module and weight of what multiplies in FP8."""
    for layer in chunk.module.decoder.layers:
        for name, module in layer.named_modules():
            if isinstance(module, BlockScaledLinear):
                yield layer.layer_number, name, module.weight


SHAPES = [
    SHAPE,
    replace(SHAPE, tie_embeddings=True, qk_norm=False),
    replace(SHAPE, num_experts=0),
    replace(SHAPE, router=Router.LOSS_FREE, shared_experts=2),
]


@NO_GPU
@pytest.mark.parametrize("kept", [Bf16Layers(), Bf16Layers(first=1), Bf16Layers(first=2, last=3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_declaration_counts_what_multiplies_in_fp8(shape: Model, kept: Bf16Layers) -> None:
    with process_groups(Parallel(), seed=5):
        [chunk] = build_language_model(shape, Parallel(), Precision.FP8_EMULATED, kept)
    found = list(_block_scaled(chunk))
    eight_bits = sum(weight.numel() for _, _, weight in found)
    others = sum(weight.numel() for weight in chunk.parameters()) - eight_bits
    assert (eight_bits, others) == weights_by_arithmetic(shape, Precision.FP8_EMULATED, kept)
    assert {layer for layer, _, _ in found} == set(range(1 + kept.first, 9 - kept.last))
    assert {name.rpartition(".")[2] for _, name, _ in found} == {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"}


def test_declaration_says_which_layers_stay_in_bf16() -> None:
    line = declaration(SHAPE, Precision.FP8_BLOCKWISE, Bf16Layers(first=2, last=1))
    assert line == (
        "precision fp8_blockwise: 61,440 weights multiply in FP8 (linear_qkv, linear_proj and the experts' linear_fc1 and "
        "linear_fc2 of 5 layers), 59,040 in BF16 (layers 1 to 2, layer 8, embedding, output layer, router, norms)"
    )
    assert declaration(SHAPE, Precision.BF16, Bf16Layers()) == "precision bf16: all 120,480 weights"


@NO_GPU
@pytest.mark.parametrize("virtual_pipeline", [1, 2])
def test_layers_kept_are_counted_over_the_whole_pipeline(virtual_pipeline: int) -> None:
    parallel = Parallel(ranks=4, pipeline=4, virtual_pipeline=virtual_pipeline)
    found = set()
    for rank in range(parallel.ranks):
        with as_rank(rank, parallel), torch.device("meta"):
            for chunk in build_language_model(SHAPE, parallel, Precision.FP8_EMULATED, Bf16Layers(first=1, last=2)):
                found |= {layer for layer, _, _ in _block_scaled(chunk)}
    assert found == {2, 3, 4, 5, 6}


@NO_GPU
def test_emulated_fp8_leaves_megatrons_own_fp8_off() -> None:
    config = transformer_config(SHAPE, Parallel(), Precision.FP8_EMULATED, Bf16Layers(first=1))
    assert config.fp8 is None and config.bf16
