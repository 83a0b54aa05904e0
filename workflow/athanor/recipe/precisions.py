"""Which precisions an environment, a model and its layout allow, with the nearest legal value of every size that they do not."""

from collections.abc import Iterator

from athanor.recipe.layouts import expert_tensor_ranks
from athanor.recipe.problems import Problem, not_divisible
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Model, Training

ENDS = ("bf16_first_layers", "bf16_last_layers")


def illegal_export(r: Recipe) -> Iterator[Problem]:
    """A type that weights are not exported in."""
    if r.export.dtype not in (Precision.FP32, Precision.BF16):
        yield Problem("export.dtype", r.export.dtype.value, "weights are exported as fp32 or bf16")


def illegal_precision(r: Recipe, t: Training, section: str) -> Iterator[Problem]:
    """Every key that Megatron or Transformer Engine would refuse under `SECTION.precision`, or leave unused."""
    precision, key = t.precision, f"{section}.precision"
    if precision is Precision.FP8_EMULATED:
        if r.environment == "gpu":
            advice = "emulates fp8_blockwise on a CPU: set environment=cpu, or use fp8_blockwise"
            yield Problem(key, precision.value, advice)
    elif precision.is_fp8:
        if r.environment == "cpu":
            advice = "needs Transformer Engine: set environment=gpu, or use fp8_emulated"
            yield Problem(key, precision.value, advice)
        yield from _tiles(r.model, t, section)
    yield from _bf16_layers(r.model.num_layers, t, section)


def _tiles(m: Model, t: Training, section: str) -> Iterator[Problem]:
    """Both sides of every matrix on a rank, and its tokens, come in whole tiles: 32 of MXFP8, where they share a scale, else 16,
    which the tensor cores take. The 128 of `fp8_blockwise` may be cut short."""
    p = t.parallel
    tile = 32 if t.precision is Precision.MXFP8 else 16
    what = "the FP8 tile"
    yield from not_divisible("model.hidden_size", m.hidden_size, what, tile)
    yield from not_divisible("model.head_dim", m.head_dim, what, tile)
    cut = expert_tensor_ranks(p)
    yield from not_divisible(
        "model.expert_ffn_size", m.expert_ffn_size, what if cut == 1 else f"{what}×expert_tensor", tile * cut
    )
    if p.micro_batch_size * t.sequence_length % (tile * p.context):
        by = what if p.context == 1 else f"{what}×context"
        yield from not_divisible(f"{section}.sequence_length", t.sequence_length, by, tile * p.context)


def _bf16_layers(layers: int, p: Training, section: str) -> Iterator[Problem]:
    precision = f"{section}.precision"
    # Megatron allows no more than a pipeline stage has (transformer_config.py:993); on one rank that is the model.
    most = layers // p.parallel.pipeline
    asked = {f"{section}.{name}": getattr(p, name) for name in ENDS if getattr(p, name)}
    for key, number in asked.items():
        if not p.precision.is_fp8:
            yield Problem(key, number, f"unused by {precision}={p.precision.value}; use 0")
        elif p.precision is Precision.FP8_DELAYED:
            advice = f"{precision}=fp8_delayed keeps the scales of all layers together; use 0, or fp8_tensorwise or fp8_blockwise"
            yield Problem(key, number, advice)
        elif number > most:
            by = "" if p.parallel.pipeline == 1 else f"/pipeline={p.parallel.pipeline}"
            yield Problem(key, number, f"more than model.num_layers={layers}{by}; use at most {most}")
    if p.precision.is_fp8 and (total := sum(asked.values())) >= layers and max(asked.values()) <= most:
        key, number = list(asked.items())[-1]
        fewer = layers - 1 - (total - number)
        yield Problem(key, number, f"no layer would be left in FP8; use {precision}=bf16, or at most {max(fewer, 0)}")
