"""Rules of the sections `sft` and `offline`: tasks whose turns can be filled, and what packed conversations allow."""

import re
from collections.abc import Iterator

from athanor.recipe.labels import illegal_labels
from athanor.recipe.mixture_search import illegal_search
from athanor.recipe.problems import Problem
from athanor.recipe.schema.post_training import SftTask
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Training

TURN_BEGINS, TURN_ENDS = "<|im_start|>", "<|im_end|>"  # ChatML, the format of the Qwen family
TAXONOMY_LEVELS = 3


def illegal_finetuning(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with `sft` and `offline` beyond what any training may have."""
    yield from _offline(r)
    if not r.sft.tasks:
        if r.sft.mixture:
            yield Problem("sft.mixture", list(r.sft.mixture), "there are no sft.tasks; declare them, or leave the mixture out")
        return
    for name, task in r.sft.tasks.items():
        yield from _task(r, task, f"sft.tasks.{name}")
        if not name.replace("_", "").isalnum():
            yield Problem(f"sft.tasks.{name}", None, "a task's name is letters, digits and _ (it becomes a file name)")
    yield from illegal_search(r)
    yield from illegal_labels(r)
    yield from _packed(r.sft, "sft")
    missing = [token for token in (TURN_BEGINS, TURN_ENDS) if token not in r.tokenizer.special_tokens]
    if missing and not r.pretrain.init_from:
        advice = f"conversations are written with {' and '.join(missing)}; add it"
        yield Problem("tokenizer.special_tokens", r.tokenizer.special_tokens, advice)


def _task(r: Recipe, task: SftTask, where: str) -> Iterator[Problem]:
    if task.source not in r.data.sources:
        yield Problem(f"{where}.source", task.source, f"no such source; data.sources has {', '.join(r.data.sources)}")
    if bool(task.turns) == bool(task.messages):
        advice = "a conversation is made of turns, or is a field of the record already (messages): give one of both"
        yield Problem(f"{where}.turns", len(task.turns), advice)
    if task.tools and not task.messages:
        yield Problem(f"{where}.tools", task.tools, "only with messages, which say when a tool is called; leave it out")
    for number, turn in enumerate(task.turns):
        if not turn.prompts:
            yield Problem(f"{where}.turns[{number}].prompts", None, "is empty: give at least one way to ask")
        if not turn.response:
            yield Problem(f"{where}.turns[{number}].response", turn.response, "is empty: there is nothing to learn")
    if len(task.taxonomy) != TAXONOMY_LEVELS or not all(task.taxonomy):
        advice = "name three levels, from the field to the skill: [chemistry, nomenclature, name to structure]"
        yield Problem(f"{where}.taxonomy", task.taxonomy, advice)


def _offline(r: Recipe) -> Iterator[Problem]:
    o, section = r.offline, "offline"
    if not r.learns_offline:
        return
    if not r.sft.mixture:
        yield Problem(
            f"{section}.mixture", list(o.mixture), "there is no fine-tuned model to start from; give sft.tasks and sft.mixture"
        )
    if o.sequence_length != r.sft.sequence_length:
        advice = f"held-out conversations are packed in windows of sft.sequence_length; use {r.sft.sequence_length}"
        yield Problem(f"{section}.sequence_length", o.sequence_length, advice)
    if o.filter.drop_up_to >= o.filter.drop_from:
        advice = f"no pass rate lies between it and {section}.filter.drop_from={o.filter.drop_from:g}; lower it"
        yield Problem(f"{section}.filter.drop_up_to", o.filter.drop_up_to, advice)
    if o.max_new_tokens >= r.model.max_sequence_length:
        advice = f"leaves no room for a question in model.max_sequence_length={r.model.max_sequence_length}; lower it"
        yield Problem(f"{section}.max_new_tokens", o.max_new_tokens, advice)
    for number, pattern in enumerate(o.forbidden):
        try:
            re.compile(pattern)
        except re.error as error:
            yield Problem(f"{section}.forbidden[{number}]", pattern, f"is no regular expression: {error}")
    yield from _packed(o, section)


def _packed(t: Training, section: str) -> Iterator[Problem]:
    """A micro-batch is one window of whole conversations, told apart by where they end."""
    p, where = t.parallel, f"{section}.parallel"
    if p.micro_batch_size != 1:
        advice = f"a micro-batch is one packed window; use 1, and a longer {section}.sequence_length for larger ones"
        yield Problem(f"{where}.micro_batch_size", p.micro_batch_size, advice)
    if p.context != 1:
        advice = "a context rank would hold parts of conversations, which the local attention cannot tell apart; use 1"
        yield Problem(f"{where}.context", p.context, advice)
    if t.noise_scale_every_steps:
        advice = "counts every token of a batch, and here responses alone count; use 0"
        yield Problem(f"{section}.noise_scale_every_steps", t.noise_scale_every_steps, advice)
