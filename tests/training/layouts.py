"""Layouts over ranks that must train the same model: what the tests and `benchmarks/layouts.py` go through."""

from dataclasses import dataclass
from typing import Any

from athanor.recipe.schema.choices import Dispatch, Recompute


@dataclass(frozen=True)
class Sizes:
    """A layout: its ranks, and what differs from one rank's in the recipe's section `pretrain.parallel`."""

    ranks: int
    parallel: dict[str, Any]
    why: str  # where rounding differs from one rank's


def _sizes(ranks: int, why: str, **parallel: Any) -> Sizes:
    return Sizes(ranks, parallel, why)


LAYOUTS = {
    "recompute full": _sizes(1, "nowhere", recompute=Recompute.FULL),
    "recompute selective": _sizes(1, "nowhere", recompute=Recompute.SELECTIVE),
    "data 2": _sizes(2, "gradients are summed by rank first"),
    "data 2, overlap": _sizes(2, "gradients are summed by rank first", overlap=True),
    "expert 2": _sizes(2, "an expert's tokens come in another order", expert=2),
    "expert 2, all-gather": _sizes(2, "an expert's tokens come in another order", expert=2, dispatch=Dispatch.ALLGATHER),
    "expert 2, overlap": _sizes(2, "an expert's tokens come in another order", expert=2, overlap=True),
    "pipeline 2": _sizes(2, "gradient norm is summed by stage first", pipeline=2),
    "pipeline 2, interleaved": _sizes(2, "gradient norm is summed by stage first", pipeline=2, virtual_pipeline=2),
    "pipeline 2, ends count": _sizes(2, "gradient norm is summed by stage first", pipeline=2, ends_count_as_layers=True),
    "context 2": _sizes(2, "gradients are summed by part of the sequence first", context=2),
    "context 2, expert 2": _sizes(2, "both", context=2, expert=2),
    "tensor 2": _sizes(2, "matrix products are summed in two parts", tensor=2),
    "tensor 2, expert 2": _sizes(2, "matrix products are summed in two parts", tensor=2, expert=2),
    "expert 4": _sizes(4, "an expert's tokens come in another order", expert=4),
    "expert 2, data 2": _sizes(4, "an expert's tokens come in another order", expert=2),
    "expert 2, pipeline 2": _sizes(4, "an expert's tokens come in another order", expert=2, pipeline=2),
    "pipeline 2, interleaved, data 2, overlap": _sizes(
        4, "gradients are summed by rank first", pipeline=2, virtual_pipeline=2, overlap=True
    ),
    "tensor 2, expert 2, expert_tensor 2": _sizes(
        4, "matrix products are summed in two parts", tensor=2, expert=2, expert_tensor=2
    ),
    "tensor 2, pipeline 2": _sizes(4, "matrix products are summed in two parts", tensor=2, pipeline=2),
    "tensor 2, context 2": _sizes(4, "matrix products are summed in two parts", tensor=2, context=2),
}
