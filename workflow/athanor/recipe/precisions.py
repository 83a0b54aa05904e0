"""Which precisions an environment, a model and its layout allow, with the nearest legal value of every size that they do not."""

from collections.abc import Iterator

from athanor.recipe.layouts import expert_tensor_ranks
from athanor.recipe.problems import Problem, not_divisible
from athanor.recipe.schema import Precision, Recipe

KEY = "pretrain.precision"
ENDS = ("bf16_first_layers", "bf16_last_layers")


def illegal_precision(r: Recipe) -> Iterator[Problem]:
    """Every key that Megatron or Transformer Engine would refuse under `pretrain.precision`, or leave unused."""
    precision = r.pretrain.precision
    if precision is Precision.FP8_EMULATED:
        if r.environment == "gpu":
            advice = "emulates fp8_blockwise on a CPU: set environment=cpu, or use fp8_blockwise"
            yield Problem(KEY, precision.value, advice)
    elif precision.is_fp8:
        if r.environment == "cpu":
            advice = "needs Transformer Engine: set environment=gpu, or use fp8_emulated"
            yield Problem(KEY, precision.value, advice)
        yield from _tiles(r)
    yield from _bf16_layers(r)
    if r.export.dtype not in (Precision.FP32, Precision.BF16):
        yield Problem("export.dtype", r.export.dtype.value, "weights are exported as fp32 or bf16")


def _tiles(r: Recipe) -> Iterator[Problem]:
    """Both sides of every matrix on a rank, and its tokens, come in whole tiles: 32 of MXFP8, where they share a scale, else 16,
    which the tensor cores take. The 128 of `fp8_blockwise` may be cut short."""
    m, p = r.model, r.pretrain.parallel
    tile = 32 if r.pretrain.precision is Precision.MXFP8 else 16
    what = "the FP8 tile"
    yield from not_divisible("model.hidden_size", m.hidden_size, what, tile)
    yield from not_divisible("model.head_dim", m.head_dim, what, tile)
    cut = expert_tensor_ranks(p)
    yield from not_divisible(
        "model.expert_ffn_size", m.expert_ffn_size, what if cut == 1 else f"{what}×expert_tensor", tile * cut
    )
    if p.micro_batch_size * r.pretrain.sequence_length % (tile * p.context):
        by = what if p.context == 1 else f"{what}×context"
        yield from not_divisible("pretrain.sequence_length", r.pretrain.sequence_length, by, tile * p.context)


def _bf16_layers(r: Recipe) -> Iterator[Problem]:
    p, layers = r.pretrain, r.model.num_layers
    # Megatron allows no more than a pipeline stage has (transformer_config.py:993); on one rank that is the model.
    most = layers // p.parallel.pipeline
    asked = {f"pretrain.{name}": getattr(p, name) for name in ENDS if getattr(p, name)}
    for key, number in asked.items():
        if not p.precision.is_fp8:
            yield Problem(key, number, f"unused by {KEY}={p.precision.value}; use 0")
        elif p.precision is Precision.FP8_DELAYED:
            advice = f"{KEY}=fp8_delayed keeps the scales of all layers together; use 0, or fp8_tensorwise or fp8_blockwise"
            yield Problem(key, number, advice)
        elif number > most:
            by = "" if p.parallel.pipeline == 1 else f"/pipeline={p.parallel.pipeline}"
            yield Problem(key, number, f"more than model.num_layers={layers}{by}; use at most {most}")
    if p.precision.is_fp8 and (total := sum(asked.values())) >= layers and max(asked.values()) <= most:
        key, number = list(asked.items())[-1]
        fewer = layers - 1 - (total - number)
        yield Problem(key, number, f"no layer would be left in FP8; use {KEY}=bf16, or at most {max(fewer, 0)}")
