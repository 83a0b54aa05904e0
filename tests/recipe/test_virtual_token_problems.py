"""What a recipe can get wrong about prompt tuning, and what each problem tells to write instead."""

from typing import Any

import pytest

from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import read_recipe
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import problems_with, with_entries

DENSE = {"sft.backend": "deepspeed", "model.num_experts": 0}
PROMPT = {**DENSE, "sft.peft.kind": "prompt", "sft.peft.tokens": 8, "model.vocab_size": 4104}
BOTH = {**PROMPT, "offline.peft.kind": "prompt", "offline.peft.tokens": 8}
PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": (
        {**PROMPT, "model.vocab_size": 4100},
        "sft.peft.tokens=8: model.vocab_size=4100 has 4 rows more than tokenizer.vocab_size, and virtual tokens take such rows; "
        "use model.vocab_size=4104 or more, or sft.peft.kind=lora",
    ),
    "no rows in offline RL": (
        {**DENSE, "offline.peft.kind": "prompt"},
        "offline.peft.tokens=16: model.vocab_size=4096 has 0 rows more than tokenizer.vocab_size, and virtual tokens take such "
        "rows; use model.vocab_size=4112 or more, or offline.peft.kind=lora",
    ),
    "no positions": (
        {**PROMPT, "model.max_sequence_length": 135},
        "sft.sequence_length=128: with 8 virtual tokens more than model.max_sequence_length=135; use 127",
    ),
    "others in offline RL": (
        {**BOTH, "offline.peft.tokens": 4},
        "offline.peft.tokens=4: offline RL trains those that fine-tuning left on; use 8",
    ),
    "no positions for a policy's texts": (
        {**PROMPT, "reward.max_new_tokens": 490},
        "reward.max_new_tokens=490: with reward.longest_prefix=16 and 8 virtual tokens more than model.max_sequence_length=512; "
        "lower one of them",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_names_key_value_and_way_out(project: Project, case: str) -> None:
    changes, expected = PROBLEMS[case]
    assert expected in problems_with(project, changes)


@pytest.mark.parametrize("changes", [PROMPT, BOTH, {**PROMPT, "offline.peft.kind": "lora"}])
def test_legal_prompt_tuning_passes(project: Project, changes: dict[str, Any]) -> None:
    assert problems_with(project, changes) == []


def test_start_that_was_prompt_tuned_is_refused(project: Project) -> None:
    folder = project.root / "models" / "tuned"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text('{"added_tokens": [{"id": 4096, "content": "<|virtual_0|>"}]}')
    project.write("bad", put(with_entries(base()), "pretrain.init_from", "models/tuned"))
    expected = "pretrain.init_from='models/tuned': was prompt-tuned, and pretraining goes on without its virtual tokens; "
    assert any(str(problem).startswith(expected) for problem in read_recipe("bad").problems)


def test_start_whose_tokenizer_leaves_too_few_rows_is_refused(project: Project) -> None:
    folder = project.root / "models" / "start"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 4099}}, "added_tokens": [{"id": 4101}]}')
    expected = (
        "sft.peft.tokens=8: the tokenizer of pretrain.init_from=models/start leaves 2 rows of model.vocab_size=4104, and virtual "
        "tokens take such rows; use at most 2, or sft.peft.kind=lora"
    )
    assert expected in problems_with(project, {**PROMPT, "pretrain.init_from": "models/start"})


def test_number_of_virtual_tokens_decides_what_is_trained_with_them_alone(project: Project) -> None:
    def fingerprints(changes: dict[str, Any]) -> dict[str, str]:
        data = with_entries(base())
        for path, value in changes.items():
            put(data, path, value)
        project.write("base", data)
        return {artifact.name: artifact.fingerprint for artifact in Lifecycle(project.load(), project.root)}

    fewer, more = fingerprints(PROMPT), fingerprints({**PROMPT, "sft.peft.tokens": 4})
    assert fewer["sft/model"] != more["sft/model"] and fewer["pack/ask"] == more["pack/ask"]
    assert fingerprints(DENSE)["sft/model"] == fingerprints({**DENSE, "sft.peft.tokens": 4})["sft/model"]
