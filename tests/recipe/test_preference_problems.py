"""What a recipe's section `preference` can get wrong, and what each problem tells to write instead."""

from typing import Any

import pytest

from athanor.recipe.lifecycle import Lifecycle
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import problems_with, with_entries

PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no answers": (
        {"offline.mixture": {}},
        "preference.kind='dpo': pairs are made of the answers that offline RL asks for; give offline.mixture, or use none",
    ),
    "a mixture": (
        {"preference.mixture": {"ask": 1}},
        "preference.mixture=['ask']: all pairs of the tasks of offline.mixture are learnt from, each as often; leave it out",
    ),
    "answers that have no other beside them": (
        {"preference.kind": "kto", "preference.parallel.micro_batch_size": 1},
        "preference.parallel.micro_batch_size=1: kto sets each answer against another question's in its micro-batch; "
        "use 2 or more",
    ),
    "a likelihood beside single answers": (
        {"preference.kind": "kto", "preference.nll_weight": 1.0},
        "preference.nll_weight=1.0: an answer of kto is right or wrong, and has none beside it; use 0, or dpo",
    ),
    "Megatron's layouts": (
        {"preference.parallel.ranks": 2, "preference.parallel.tensor": 2},
        "preference.parallel.tensor=2: a module in its Hugging Face form is spread by preference.zero alone; use 1",
    ),
    "experts on ranks": (
        {"preference.parallel.ranks": 2, "preference.parallel.expert": 2},
        "preference.parallel.expert=2: a module in its Hugging Face form is spread by preference.zero alone; use 1",
    ),
    "eight bits": (
        {"preference.precision": "fp8_blockwise"},
        "preference.precision='fp8_blockwise': Hugging Face's layers multiply in fp32 or bf16; use bf16",
    ),
    "a rule whose state cannot be cut": (
        {"preference.optimizer.name": "muon"},
        "preference.optimizer.name='muon': its state cannot be cut anywhere; use adamw, lion, adan",
    ),
    "a rule that draws labels": (
        {"preference.optimizer.name": "sophia"},
        "preference.optimizer.name='sophia': estimates curvature from labels drawn from the model, and here are none; "
        "use adamw, lion, adan",
    ),
    "spikes": (
        {"preference.spikes.action": "skip"},
        "preference.spikes.action='skip': DeepSpeed tells a step's gradient norm when the step is done; use log",
    ),
    "frozen weights": (
        {"preference.freeze": ["embedding"]},
        "preference.freeze=['embedding']: it names weights as Megatron does; leave it out",
    ),
    "offload of nothing": (
        {"preference.zero.stage": 0, "preference.zero.offload": True},
        "preference.zero.offload=True: stage 0 spreads nothing that could be elsewhere; use preference.zero.stage=1",
    ),
    "uneven batches": (
        {"preference.batch_tokens": 2000},
        "preference.batch_tokens=2000: not divisible by sequence_length×micro_batch_size×data-parallel ranks=128; "
        "use 1920 or 2048",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_names_key_value_and_way_out(project: Project, case: str) -> None:
    changes, expected = PROBLEMS[case]
    assert expected in problems_with(project, changes)


def test_preferences_are_learnt_from_the_fine_tuned_models_answers_by_the_last_model(project: Project) -> None:
    data = with_entries(base())
    put(data, "offline.second_model", True)
    put(data, "preference.control", True)
    project.write("base", data)
    graph = Lifecycle(project.load(), project.root)
    for label in ("model", "exchanged"):
        assert {name: up.name for name, up in graph[f"preference/{label}"].upstreams.items()} == {
            "start": "export/offline",
            "pairs-ask": "pairs/ask",
        }
    assert graph["pairs/ask"].upstreams["rollouts"].name == "rollouts/ask-sft"
    assert {"export/preference", "export/preference-exchanged", "answers/preference"} <= {artifact.name for artifact in graph}
