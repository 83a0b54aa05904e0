"""Which layouts over ranks a model and its batches allow, with the nearest legal value of every size that they do not.

The sizes are Megatron's: `tensor` cuts matrices (and the sequence between them), `pipeline` the layers, `context` the
sequence, `expert` the experts. Ranks are tensor × context × data × pipeline; inside a pipeline stage the same ranks are
expert_tensor × expert × (data of the experts).
"""

import math
from collections.abc import Iterator, Mapping

from athanor.recipe.problems import Problem, not_divisible
from athanor.recipe.schema.training import Model, Parallel, Training


def expert_tensor_ranks(parallel: Parallel) -> int:
    """Ranks that share one expert's matrices.

    With `expert` = 1 Megatron marks experts so that their gradients are never summed over tensor ranks that hold copies
    (tensor_parallel/layers.py:886): cut like the rest of the layer there are no copies.
    """
    return parallel.expert_tensor or (parallel.tensor if parallel.expert == 1 else 1)


def data_ranks(parallel: Parallel) -> int:
    """Ranks that read samples of their own."""
    return max(1, parallel.ranks // _model_ranks(parallel))


def illegal_layout(m: Model, t: Training, section: str) -> Iterator[Problem]:
    """Every size of `SECTION.parallel` that Megatron could not build, or would build and train wrongly."""
    p, where = t.parallel, f"{section}.parallel"
    if p.ranks % _model_ranks(p):
        yield from not_divisible(f"{where}.ranks", p.ranks, "tensor×pipeline×context", _model_ranks(p))
    sequence = f"{section}.sequence_length"
    zigzag = 2 * p.context if p.context > 1 else 1  # chunks a sequence is cut into, each then among the tensor ranks
    tensor = {
        "model.num_attention_heads": m.num_attention_heads,
        "model.num_query_groups": m.num_query_groups,
        "model.vocab_size": m.vocab_size,
    }
    yield from _divisor(f"{where}.tensor", p.tensor, tensor)
    yield from not_divisible(sequence, t.sequence_length, "2×context×tensor", zigzag * p.tensor)
    yield from _pipeline(m, p, where)
    stage = p.ranks // p.pipeline
    cut = expert_tensor_ranks(p)
    if m.num_experts:
        yield from _divisor(
            f"{where}.expert", p.expert, {"model.num_experts": m.num_experts, "the ranks of a pipeline stage": stage}
        )
    elif p.expert > 1:
        yield Problem(f"{where}.expert", p.expert, "model.num_experts=0: there are no experts to spread; use 1")
        return
    yield from _divisor(f"{where}.expert_tensor", cut, {"model.expert_ffn_size": m.expert_ffn_size})
    if m.shared_experts:
        yield from _divisor(
            f"{where}.tensor", p.tensor, {"model.expert_ffn_size×shared_experts": m.expert_ffn_size * m.shared_experts}
        )
    if p.expert == 1 and cut != p.tensor:
        advice = f"with expert=1 the experts' gradients would be wrong; use 0 or {p.tensor}"
        yield Problem(f"{where}.expert_tensor", p.expert_tensor, advice)
    elif stage % p.expert == 0 and (stage // p.expert) % cut:
        room = {"the ranks of a pipeline stage over expert": stage // p.expert}
        yield from _divisor(f"{where}.expert_tensor", cut, room)


def _pipeline(m: Model, p: Parallel, where: str) -> Iterator[Problem]:
    if p.virtual_pipeline > 1 and p.pipeline == 1:
        yield Problem(f"{where}.virtual_pipeline", p.virtual_pipeline, f"needs {where}.pipeline above 1; use 1")
        return
    if p.ends_count_as_layers and p.pipeline == 1:
        yield Problem(f"{where}.ends_count_as_layers", True, f"needs {where}.pipeline above 1; use false")
        return
    name, layers = "model.num_layers", m.num_layers
    if p.ends_count_as_layers:
        name, layers = "model.num_layers+2", m.num_layers + 2
    found = list(_divisor(f"{where}.pipeline", p.pipeline, {name: layers}))
    if not found:
        a_stage = layers // p.pipeline
        found = list(_divisor(f"{where}.virtual_pipeline", p.virtual_pipeline, {"the layers of a stage": a_stage}))
    chunks = p.pipeline * p.virtual_pipeline
    if not found and p.ends_count_as_layers and layers // chunks < 2:
        advice = f"the first and the last of {chunks} chunks would have no layer; use false"
        found = [Problem(f"{where}.ends_count_as_layers", True, advice)]
    yield from found


def illegal_batches(p: Training, section: str) -> Iterator[Problem]:
    """Every batch size that does not come out even over the ranks."""
    layout = p.parallel
    unit = p.sequence_length * layout.micro_batch_size * data_ranks(layout)
    what = "sequence_length×micro_batch_size×data-parallel ranks"
    if layout.virtual_pipeline > 1:  # the interleaved schedule takes as many micro-batches as there are stages at a time
        unit, what = unit * layout.pipeline, f"{what}×pipeline"
    yield from not_divisible(f"{section}.batch_tokens", p.batch_tokens, what, unit)
    for i, switch in enumerate(p.batch_switches):
        yield from not_divisible(f"{section}.batch_switches[{i}].batch_tokens", switch.batch_tokens, what, unit)


def _model_ranks(parallel: Parallel) -> int:
    return parallel.tensor * parallel.pipeline * parallel.context


def _divisor(key: str, size: int, numbers: Mapping[str, int]) -> Iterator[Problem]:
    """The problem that `size` does not divide all `numbers`, with the nearest sizes below and above that do."""
    broken = [f"{what}={number}" for what, number in numbers.items() if number % size]
    if broken:
        most = math.gcd(*numbers.values())
        legal = [n for n in range(1, most + 1) if most % n == 0]
        near = [*[n for n in legal if n < size][-1:], *[n for n in legal if n > size][:1]]
        advice = f"does not divide {' and '.join(broken)}; use {' or '.join(map(str, near))}"
        yield Problem(key, size, advice)
