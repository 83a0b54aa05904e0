"""Byte-level BPE with the `tokenizers` library: trained on a sample by mixture weight, saved as a Hugging Face folder.

Every digit is a token of its own, so that numbers are read the same way whatever their length (Singh and Strouse 2024,
arXiv:2402.14903). Every byte is in the vocabulary, so any text comes back exactly.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokenizers import Tokenizer as Encoder
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from athanor.artifacts.files import write_atomically
from athanor.artifacts.run import StageError
from athanor.data.documents import read_documents
from athanor.models.chat_template import CHAT_TEMPLATE
from athanor.models.folder_files import OPTIONAL_TOKENIZER_FILES, TOKENIZER_FILES
from athanor.recipe.finetuning import TURN_BEGINS, TURN_ENDS
from athanor.recipe.schema.recipe import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


def sample_texts(files: Mapping[str, list[Path]], weights: Mapping[str, float], sample_bytes: int) -> Iterator[tuple[str, str]]:
    """(source, text) of training documents, `sample_bytes` in all, each source by its weight or as far as it goes.

    Documents are shuffled already, so the first ones are a fair sample. `files` are the training shards of a source.
    """
    total = sum(weights[name] for name in files)
    for name in sorted(files):
        left = sample_bytes * weights[name] / total
        for document in (document for file in files[name] for document in read_documents(file)):
            if left <= 0:
                break
            left -= document.size
            yield name, document.text


def train(texts: Iterable[str], recipe: Tokenizer) -> Encoder:
    """Train on `texts`. Raises StageError when they are too few for the vocabulary or hold a special token's name."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if recipe.vocab_size < len(alphabet) + len(recipe.special_tokens):
        raise StageError(f"tokenizer.vocab_size={recipe.vocab_size} has no room for 256 bytes and the special tokens")
    encoder = Encoder(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        min_frequency=recipe.min_frequency,
        special_tokens=list(recipe.special_tokens),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    encoder.train_from_iterator(texts, trainer)
    return encoder


def save(encoder: Encoder, recipe: Tokenizer, folder: Path) -> tuple[str, ...]:
    """Write what `transformers.AutoTokenizer.from_pretrained(folder)` reads; returns the file names."""
    end_of_text, padding, *others = recipe.special_tokens
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "pad_token": padding,
        "additional_special_tokens": others,
        "clean_up_tokenization_spaces": False,
    }
    if {TURN_BEGINS, TURN_ENDS} <= set(others):
        config["chat_template"] = CHAT_TEMPLATE
    write_atomically(folder / TOKENIZER_FILE, encoder.to_str(pretty=True))
    write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return TOKENIZER_FILE, CONFIG_FILE


def adopt(source: Path, recipe: Tokenizer, rows: int, folder: Path) -> tuple[Encoder, tuple[str, ...]]:
    """Copy the tokenizer of the Hugging Face folder `source`, for an embedding of `rows`; it and the file names.

    Raises StageError where it does not fit: more ids than rows, or no token that ends a document.
    """
    names = tuple(name for name in (*TOKENIZER_FILES, *OPTIONAL_TOKENIZER_FILES) if (source / name).is_file())
    if TOKENIZER_FILE not in names:
        raise StageError(f"{source} has no {TOKENIZER_FILE}; save its tokenizer there: tokenizers in other forms are not read")
    for name in names:
        shutil.copyfile(source / name, folder / name)
    encoder = load(folder)
    if encoder.get_vocab_size() > rows:
        raise StageError(f"{source}: its tokenizer has {encoder.get_vocab_size()} ids, model.vocab_size={rows} rows; use more")
    if encoder.token_to_id(end := recipe.special_tokens[0]) is None:
        known = ", ".join(token.content for token in encoder.get_added_tokens_decoder().values())
        raise StageError(f"{source}: no token is tokenizer.special_tokens[0]={end!r}, which ends documents; there are {known}")
    return encoder, names


def load(folder: Path) -> Encoder:
    """The tokenizer, reading the names of special tokens inside a text as ordinary text: no document can end itself.

    A text's bytes stay as they are: Qwen's tokenizer would compose characters (NFC) first, which changes the few texts that are
    not composed already, and what is to be predicted with them.
    """
    encoder = Encoder.from_file(str(folder / TOKENIZER_FILE))
    encoder.encode_special_tokens = True
    if isinstance(encoder.normalizer, normalizers.NFC):
        encoder.normalizer = None
    return encoder


def token_bytes(encoder: Encoder) -> list[int]:
    """UTF-8 bytes each token stands for, by id; 0 for a special token.

    In byte-level BPE every character of a token's name is one byte of text.
    """
    special = {token_id for token_id, token in encoder.get_added_tokens_decoder().items() if token.special}
    lengths = [0] * encoder.get_vocab_size()
    for token, token_id in encoder.get_vocab().items():
        lengths[token_id] = 0 if token_id in special else len(token)
    return lengths
