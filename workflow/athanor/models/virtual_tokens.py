"""Virtual tokens of prompt tuning as real ones: spare rows of the embedding, with names that only the chat template writes.

Prompt tuning (Lester et al. 2021) puts trained embeddings before a text. An id that no text has, whose row of the embedding is
such a vector, is the same to every layer; the output layer has a row for that id as before. So the folder is an ordinary one.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from athanor.artifacts.files import write_atomically
from athanor.models.folder_files import TOKENIZER_FILES
from athanor.recipe.virtual_tokens import name_of


class VirtualTokenError(Exception):
    """A tokenizer that has no room for virtual tokens, or others of their names."""


def names_among(vocabulary: Collection[str]) -> list[str]:
    """The virtual tokens of a vocabulary, in their order."""
    names: list[str] = []
    while name_of(len(names)) in vocabulary:
        names.append(name_of(len(names)))
    return names


def virtual_ids(folder: Path) -> tuple[int, ...]:
    """Ids of the virtual tokens that a folder's tokenizer has; empty without a tokenizer."""
    path = folder / TOKENIZER_FILES[0]
    if not path.is_file():
        return ()
    vocabulary = Tokenizer.from_file(str(path)).get_vocab()
    return tuple(vocabulary[name] for name in names_among(vocabulary))


def spare_ids(folder: Path, count: int, rows: int) -> tuple[int, ...]:
    """Ids that `count` virtual tokens get in a folder's tokenizer, of `rows` of the embedding.

    Raises VirtualTokenError where there are too few, or it has virtual tokens already.
    """
    return _with_virtual_tokens(folder, count, rows)[1]


def add_virtual_tokens(folder: Path, count: int, rows: int) -> tuple[int, ...]:
    """Add them to the folder's tokenizer; their ids. Raises VirtualTokenError as `spare_ids` does."""
    tokenizer, ids = _with_virtual_tokens(folder, count, rows)
    path = folder / TOKENIZER_FILES[0]
    write_atomically(path, tokenizer.to_str(pretty=True))
    config = folder / TOKENIZER_FILES[1]
    told: dict[str, Any] = json.loads(config.read_text())
    if "added_tokens_decoder" in told:  # older tokenizers list what was added there, too
        told["added_tokens_decoder"] |= {str(id): _described(name_of(number)) for number, id in enumerate(ids)}
        write_atomically(config, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return ids


def _with_virtual_tokens(folder: Path, count: int, rows: int) -> tuple[Tokenizer, tuple[int, ...]]:
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILES[0]))
    if found := names_among(tokenizer.get_vocab()):
        raise VirtualTokenError(f"{folder} has {len(found)} virtual tokens already ({found[0]} …): start from a folder without")
    names = [name_of(number) for number in range(count)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    vocabulary = tokenizer.get_vocab()
    ids = tuple(vocabulary[name] for name in names)
    if ids != tuple(range(ids[0], ids[0] + count)) or ids[-1] >= rows:
        raise VirtualTokenError(
            f"{folder}: the tokenizer has {ids[0]} ids, and {rows} rows of the embedding leave {max(rows - ids[0], 0)} for "
            f"virtual tokens; raise model.vocab_size, or lower peft.tokens={count}"
        )
    return tokenizer, ids


def _described(name: str) -> dict[str, Any]:
    flags: Sequence[str] = ("lstrip", "normalized", "rstrip", "single_word")
    return {"content": name, **dict.fromkeys(flags, False), "special": True}
