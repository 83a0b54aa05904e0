"""What a recipe's section `sft` can get wrong, and what each problem tells to write instead."""

from typing import Any

import pytest

from athanor.recipe.loading import read_recipe
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import problems_with, with_entries

ONE_TURN = [{"prompts": ["What of {path}?"], "response": "{text}"}]
GENERATED = {
    "kind": "reasoning_gym",
    "package": "chain_sum",
    "version": "0.1.25",
    "licence": "MIT",
    "domain": "sums",
    "format": "rows",
    "items": 10,
}

PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown source": (
        {"sft.tasks.ask.source": "prosa"},
        "sft.tasks.ask.source='prosa': no such source; data.sources has prose, chemistry",
    ),
    "generator whose verifier can be fooled": (
        {"data.sources.prose": GENERATED | {"package": "puzzle24"}},
        "data.sources.prose.package='puzzle24': cannot be learnt from: its verifier runs what a model wrote as a program",
    ),
    "generator nobody knows": (
        {"data.sources.prose": GENERATED | {"package": "chain_sums"}},
        "data.sources.prose.package='chain_sums': no such generator; did you mean chain_sum?",
    ),
    "no problems": (
        {"data.sources.prose": GENERATED | {"items": 0}},
        "data.sources.prose.items=0: say how many problems are to be generated, held-out ones among them",
    ),
    "problems that are no rows": (
        {"data.sources.prose": GENERATED | {"format": "jsonl"}},
        "data.sources.prose.format='jsonl': a generator gives rows; use rows",
    ),
    "generator of another version": (
        {"data.sources.prose": GENERATED | {"version": "0.1.9"}},
        "data.sources.prose.version='0.1.9': environment=cpu has reasoning-gym 0.1.25; use that",
    ),
    "option that is a section": (
        {"data.sources.prose": GENERATED | {"options": {"max_terms": {"a": 1}}}},
        "data.sources.prose.options.max_terms={'a': 1}: expected text, a number, true or false, or a list of them",
    ),
    "problems out of a file": (
        {"data.sources.prose.items": 5},
        "data.sources.prose.items=5: only data.sources.prose.kind=reasoning_gym generates problems; leave it out",
    ),
    "trials longer than what they are for": (
        {"sft.search.token_budget": "2M"},
        "sft.search.token_budget='2M': a trial is longer than fine-tuning itself, sft.token_budget=1M; lower it",
    ),
    "trial of an unknown task": (
        {"sft.search": {"token_budget": "10K", "alone": ["tell"]}},
        "sft.search.alone[0]=['tell']: no such task in sft.mixture, which has ask",
    ),
    "trial called as a task": (
        {"sft.search": {"token_budget": "10K", "combinations": {"ask": {"ask": 1}}}},
        "sft.search.combinations.ask='ask': is a task's name, the recipe's own mixture's, or no word; use another",
    ),
    "trial without weights": (
        {"sft.search": {"token_budget": "10K", "combinations": {"none": {"ask": 0}}}},
        "sft.search.combinations.none={'ask': 0.0}: give every task of a mixture a weight above 0",
    ),
    "nothing to start offline RL from": (
        {"sft.mixture": {}, "sft.tasks": {}, "offline.mixture": {"ask": 1}},
        "offline.mixture=['ask']: there is no fine-tuned model to start from; give sft.tasks and sft.mixture",
    ),
    "offline RL on an unknown task": (
        {"offline.mixture": {"ask": 1, "tell": 1}},
        "offline.mixture.tell=1.0: no such task; sft.tasks has ask",
    ),
    "windows of another length": (
        {"offline.sequence_length": 64},
        "offline.sequence_length=64: held-out conversations are packed in windows of sft.sequence_length; use 128",
    ),
    "every question too easy or too hard": (
        {"offline.filter": {"drop_from": 0.2, "drop_up_to": 0.2}},
        "offline.filter.drop_up_to=0.2: no pass rate lies between it and offline.filter.drop_from=0.2; lower it",
    ),
    "no room for a question": (
        {"offline.max_new_tokens": 512},
        "offline.max_new_tokens=512: leaves no room for a question in model.max_sequence_length=512; lower it",
    ),
    "pattern that is none": (
        {"offline.forbidden": ["kill", "("]},
        "offline.forbidden[1]='(': is no regular expression: missing ), unterminated subpattern at position 0",
    ),
    "several windows a micro-batch offline": (
        {"offline.parallel.micro_batch_size": 2},
        "offline.parallel.micro_batch_size=2: a micro-batch is one packed window; use 1, and a longer "
        "offline.sequence_length for larger ones",
    ),
    "neither turns nor messages": (
        {"sft.tasks.ask.turns": []},
        "sft.tasks.ask.turns=0: a conversation is made of turns, or is a field of the record already (messages): "
        "give one of both",
    ),
    "both turns and messages": (
        {"sft.tasks.ask.messages": "said"},
        "sft.tasks.ask.turns=1: a conversation is made of turns, or is a field of the record already (messages): "
        "give one of both",
    ),
    "tools nobody can call": (
        {"sft.tasks.ask.tools": "tools"},
        "sft.tasks.ask.tools='tools': only with messages, which say when a tool is called; leave it out",
    ),
    "no question": (
        {"sft.tasks.ask.turns.0.prompts": []},
        "sft.tasks.ask.turns[0].prompts: is empty: give at least one way to ask",
    ),
    "no answer": (
        {"sft.tasks.ask.turns.0.response": ""},
        "sft.tasks.ask.turns[0].response='': is empty: there is nothing to learn",
    ),
    "two levels": (
        {"sft.tasks.ask.taxonomy": ["language", "reading"]},
        "sft.tasks.ask.taxonomy=['language', 'reading']: name three levels, from the field to the skill: "
        "[chemistry, nomenclature, name to structure]",
    ),
    "task of a file's name": (
        {"sft.tasks.a/b": {"source": "prose", "turns": ONE_TURN, "taxonomy": ["a", "b", "c"]}},
        "sft.tasks.a/b: a task's name is letters, digits and _ (it becomes a file name)",
    ),
    "mixture of an unknown task": (
        {"sft.mixture": {"ask": 1, "tell": 1}},
        "sft.mixture.tell=1.0: no such task; sft.tasks has ask",
    ),
    "mixture of nothing": ({"sft.mixture": {}}, "sft.mixture: is empty: give weights to ask"),
    "several windows a micro-batch": (
        {"sft.parallel.micro_batch_size": 2},
        "sft.parallel.micro_batch_size=2: a micro-batch is one packed window; use 1, and a longer "
        "sft.sequence_length for larger ones",
    ),
    "context ranks": (
        {"sft.parallel.context": 2, "sft.parallel.ranks": 2},
        "sft.parallel.context=2: a context rank would hold parts of conversations, which the local attention cannot tell apart; "
        "use 1",
    ),
    "noise scale": (
        {"sft.noise_scale_every_steps": 5},
        "sft.noise_scale_every_steps=5: counts every token of a batch, and here responses alone count; use 0",
    ),
    "no token that ends a turn": (
        {"tokenizer.special_tokens": ["<|endoftext|>", "<|pad|>", "<|im_start|>"]},
        "tokenizer.special_tokens=['<|endoftext|>', '<|pad|>', '<|im_start|>']: conversations are written with "
        "<|im_end|>; add it",
    ),
    "window longer than the positions": (
        {"sft.sequence_length": 1024},
        "sft.sequence_length=1024: longer than model.max_sequence_length=512",
    ),
    "batch that does not come out even": (
        {"sft.batch_tokens": 1000},
        "sft.batch_tokens=1000: not divisible by sequence_length×micro_batch_size×data-parallel ranks=128; use 896 or 1024",
    ),
    "layout of fine-tuning alone": (
        {"sft.parallel.ranks": 3, "sft.parallel.tensor": 3},
        "sft.parallel.tensor=3: does not divide model.num_attention_heads=4 and model.num_query_groups=2 and "
        "model.vocab_size=4096; use 2",
    ),
    "precision of another machine": (
        {"sft.precision": "fp8_blockwise"},
        "sft.precision='fp8_blockwise': needs Transformer Engine: set environment=gpu, or use fp8_emulated",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problem_names_key_value_and_way_out(project: Project, case: str) -> None:
    changes, expected = PROBLEMS[case]
    assert expected in problems_with(project, changes)


def test_mixture_without_tasks_is_no_fine_tuning(project: Project) -> None:
    project.write("bad", put(base(), "sft.mixture", {"ask": 1}))
    [problem] = read_recipe("bad").problems
    assert str(problem) == "sft.mixture=['ask']: there are no sft.tasks; declare them, or leave the mixture out"


def test_what_is_wrong_in_both_sections_with_one_key_is_said_once(project: Project) -> None:
    data = with_entries(base())
    for path, value in {
        "model.hidden_size": 129,
        "pretrain.precision": "fp8_blockwise",
        "sft.precision": "fp8_blockwise",
    }.items():
        put(data, path, value)
    put(data, "environment", "gpu")
    project.write("bad", data)
    keys = [problem.key for problem in read_recipe("bad").problems]
    assert keys.count("model.hidden_size") == 1
