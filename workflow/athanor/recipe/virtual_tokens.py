"""Rules of prompt tuning: its virtual tokens are spare rows of the embedding, and take positions before every conversation."""

import json
from collections.abc import Iterator
from pathlib import Path

from athanor.recipe.folders import TOKENIZER
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import Backend, PeftKind
from athanor.recipe.schema.post_training import Offline, Sft
from athanor.recipe.schema.recipe import Recipe


def name_of(number: int) -> str:
    """What the chat template calls the virtual token of this number."""
    return f"<|virtual_{number}|>"


def prompt_tuned(r: Recipe) -> dict[str, Sft | Offline]:
    """The sections that train virtual tokens, by name."""
    sections: dict[str, Sft | Offline] = {"sft": r.sft} if r.sft.tasks else {}
    if r.learns_offline:
        sections["offline"] = r.offline
    on = r.sft.backend is Backend.DEEPSPEED
    return {name: settings for name, settings in sections.items() if on and settings.peft.kind is PeftKind.PROMPT}


def virtual_tokens(r: Recipe) -> int:
    """How many stand before every conversation in the end; 0 without prompt tuning."""
    return max((settings.peft.tokens for settings in prompt_tuned(r).values()), default=0)


def illegal_virtual_tokens(r: Recipe) -> Iterator[Problem]:
    """Virtual tokens that have no rows or no positions, or are other ones in offline RL."""
    tuned = prompt_tuned(r)
    for section, settings in tuned.items():
        tokens, where = settings.peft.tokens, f"{section}.peft.tokens"
        room = r.model.vocab_size - r.tokenizer.vocab_size
        if tokens > room and not r.pretrain.init_from:
            advice = (
                f"model.vocab_size={r.model.vocab_size} has {room} rows more than tokenizer.vocab_size, and virtual tokens take "
                f"such rows; use model.vocab_size={r.tokenizer.vocab_size + tokens} or more, or {section}.peft.kind=lora"
            )
            yield Problem(where, tokens, advice)
    if len(tuned) > 1 and r.offline.peft.tokens != r.sft.peft.tokens:
        advice = f"offline RL trains those that fine-tuning left on; use {r.sft.peft.tokens}"
        yield Problem("offline.peft.tokens", r.offline.peft.tokens, advice)
    yield from _positions(r)


def _positions(r: Recipe) -> Iterator[Problem]:
    tokens, longest = virtual_tokens(r), r.model.max_sequence_length
    lengths = {"sft.sequence_length": r.sft.sequence_length}
    if r.learns_offline:
        lengths["offline.sequence_length"] = r.offline.sequence_length
    for where, length in lengths.items() if tokens else ():
        if length + tokens > longest:
            advice = f"with {tokens} virtual tokens more than model.max_sequence_length={longest}; use {longest - tokens}"
            yield Problem(where, length, advice)


def illegal_start(r: Recipe, project: Path) -> Iterator[Problem]:
    """What a start in its Hugging Face form forbids: it was prompt-tuned, or its tokenizer leaves too few rows."""
    path = project / r.pretrain.init_from / TOKENIZER
    if not r.pretrain.init_from or not path.is_file():
        return
    text = path.read_bytes()
    if f'"{name_of(0)}"'.encode() in text:
        advice = "was prompt-tuned, and pretraining goes on without its virtual tokens; start from what it was tuned from"
        yield Problem("pretrain.init_from", r.pretrain.init_from, advice)
    for section, settings in prompt_tuned(r).items():
        tokens, room = settings.peft.tokens, max(r.model.vocab_size - _ids(text), 0)
        if tokens > room:
            advice = (
                f"the tokenizer of pretrain.init_from={r.pretrain.init_from} leaves {room} rows of model.vocab_size="
                f"{r.model.vocab_size}, and virtual tokens take such rows; use at most {room}, or {section}.peft.kind=lora"
            )
            yield Problem(f"{section}.peft.tokens", tokens, advice)


def _ids(tokenizer: bytes) -> int:
    """One more than the highest id in a tokenizer.json; 0 where it cannot be read, which others tell."""
    try:
        told = json.loads(tokenizer)
        known = told.get("model", {}).get("vocab", {})
        numbered = known.values() if isinstance(known, dict) else range(len(known))  # a Unigram's is a list
        highest: int = max([-1, *numbered, *(token["id"] for token in told.get("added_tokens", []))])
        return highest + 1
    except (ValueError, AttributeError, KeyError, TypeError):
        return 0
