"""What fine-tuning cannot combine: each row of the table is refused with the nearest legal choice, and the docs print it."""

from pathlib import Path
from typing import Any

import pytest

from athanor.recipe.combinations import BACKEND, ROWS, table
from athanor.recipe.loading import read_recipe
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import with_entries

DOCS = Path(__file__).parents[2] / "docs" / "deepspeed.md"
DENSE = {"sft.backend": "deepspeed", "model.num_experts": 0}
FUSED = {
    **DENSE,
    "sft.optimizer.name": "adalomo",
    "sft.zero.stage": 0,
    "sft.sequence_length": 128,
    "sft.batch_tokens": 128,
    "sft.batch_switches": [],
}
# By the row it must break: what to change in the small recipe, and what the key's value is told as.
BROKEN: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("sft.backend", "num_experts"): ({"sft.backend": "deepspeed"}, "'deepspeed'"),
    ("sft.parallel.tensor", "tensor"): ({**DENSE, "sft.parallel.tensor": 2, "sft.parallel.ranks": 2}, "2"),
    ("sft.parallel.pipeline", "pipeline"): ({**DENSE, "sft.parallel.pipeline": 2, "sft.parallel.ranks": 2}, "2"),
    ("sft.parallel.overlap", "overlap"): ({**DENSE, "sft.parallel.overlap": True}, "True"),
    ("sft.parallel.recompute", "recompute"): ({**DENSE, "sft.parallel.recompute": "full"}, "'full'"),
    ("sft.precision", "FP8"): ({**DENSE, "sft.precision": "fp8_emulated"}, "'fp8_emulated'"),
    ("sft.spikes.action", "skip"): ({**DENSE, "sft.spikes.action": "skip"}, "'skip'"),
    ("sft.freeze", "freeze"): ({**DENSE, "sft.freeze": ["embedding"]}, "['embedding']"),
    ("sft.checkpoint.local_first", "local_first"): ({**DENSE, "sft.checkpoint.local_first": True}, "True"),
    ("sft.zero.stage", "muon"): ({**DENSE, "sft.optimizer.name": "muon"}, "1"),
    ("sft.precision", "muon"): (
        {**DENSE, "sft.optimizer.name": "muon", "sft.zero.stage": 0, "sft.precision": "bf16"},
        "'bf16'",
    ),
    ("sft.zero.stage", "lomo"): ({**FUSED, "sft.zero.stage": 2}, "2"),
    ("sft.parallel.ranks", "lomo"): (
        {**FUSED, "sft.parallel.ranks": 2, "sft.batch_tokens": 256},
        "2",
    ),
    ("sft.batch_tokens", "lomo"): ({**FUSED, "sft.batch_tokens": 1024}, "1024"),
    ("sft.precision", "lomo"): ({**FUSED, "sft.precision": "bf16"}, "'bf16'"),
    ("sft.optimizer.weight_decay", "lomo"): ({**FUSED, "sft.optimizer.name": "lomo"}, "0.1"),
    ("sft.optimizer.name", "megatron"): ({"sft.optimizer.name": "lion"}, "'lion'"),
    ("sft.peft.kind", "megatron"): ({"sft.peft.kind": "lora"}, "'lora'"),
    ("sft.peft.kind", "prefix"): ({**DENSE, "sft.peft.kind": "prefix"}, "'prefix'"),
    ("sft.zero.stage", "qlora"): ({**DENSE, "sft.peft.kind": "qlora", "sft.zero.stage": 3}, "3"),
    ("sft.optimizer.name", "ia3"): (
        {**DENSE, "sft.peft.kind": "ia3", "sft.zero.stage": 0, "sft.optimizer.name": "muon"},
        "'muon'",
    ),
    ("sft.peft.kind", "lomo"): ({**FUSED, "sft.peft.kind": "lora"}, "'lora'"),
    ("sft.zero.offload", "`stage` 0"): ({**DENSE, "sft.zero.stage": 0, "sft.zero.offload": True}, "True"),
    ("sft.zero.stage", "megatron"): ({"sft.zero.stage": 3}, "3"),
    ("sft.zero.offload", "megatron"): ({"sft.zero.offload": True}, "True"),
}


def _problems(project: Project, changes: dict[str, Any]) -> list[str]:
    data = with_entries(base())
    for path, value in changes.items():
        put(data, path, value)
    project.write("bad", data)
    return [str(problem) for problem in read_recipe("bad").problems]


def _of(section: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The same of another section, but for the backend, which is fine-tuning's to say."""
    return {key if key == BACKEND else key.replace("sft.", f"{section}.", 1): value for key, value in changes.items()}


@pytest.mark.parametrize("section", ["sft", "offline"])
@pytest.mark.parametrize("case", BROKEN, ids=" ".join)
def test_illegal_combination_is_refused_with_reason_and_nearest_choice(
    project: Project, case: tuple[str, str], section: str
) -> None:
    key, word = case
    [row] = [row.told(section) for row in ROWS if row.told("sft").key == key and word in row.when]
    changes, value = BROKEN[case]
    assert _problems(project, _of(section, changes)) == [f"{row.key}={value}: {row.why}; use {row.use}"]


def test_every_row_is_broken_by_a_case() -> None:
    assert len(ROWS) >= 12
    assert len(BROKEN) == len(ROWS)


@pytest.mark.parametrize("changes", [{}, DENSE, FUSED, {**DENSE, "sft.zero.stage": 3, "sft.zero.offload": True}])
def test_legal_combinations_pass(project: Project, changes: dict[str, Any]) -> None:
    assert _problems(project, changes) == []


def test_docs_print_the_table() -> None:
    assert table() in DOCS.read_text(encoding="utf-8"), "put the output of python -m athanor.recipe.combinations there"
