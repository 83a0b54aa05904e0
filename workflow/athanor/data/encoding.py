"""One shard of documents turned into token ids."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Encoder

from athanor.artifacts.run import StageError
from athanor.data.bpe import token_bytes
from athanor.data.documents import Document
from athanor.data.token_store import BYTES_FILE, INDEX_FILE, TOKENS_FILE, TokenWriter, write_token_bytes

BATCH_BYTES = 1_000_000  # text encoded at once: enough to occupy the library's threads


@dataclass(frozen=True)
class Encoded:
    """What a shard became."""

    documents: int
    tokens: int  # ends of documents included
    bytes: int  # UTF-8 bytes of the texts
    files: tuple[str, ...] = (TOKENS_FILE, INDEX_FILE, BYTES_FILE)


def encode_documents(
    documents: Iterable[Document], encoder: Encoder, end_of_text: str, folder: Path, progress: Callable[[int], None]
) -> Encoded:
    """Write the tokens of every document, each followed by `end_of_text`. `progress` is told the documents done.

    Raises StageError when the tokenizer has no such token, or a document's tokens do not cover its bytes.
    """
    end = encoder.token_to_id(end_of_text)
    if end is None:
        raise StageError(f"the tokenizer has no token {end_of_text!r}; it is tokenizer.special_tokens[0] of the recipe")
    lengths = token_bytes(encoder)
    done = size = 0
    with TokenWriter(folder, encoder.get_vocab_size()) as writer:
        for batch in _batches(documents):
            encoded = encoder.encode_batch_fast([document.text for document in batch], add_special_tokens=False)
            ids = [one.ids for one in encoded]
            batch_bytes = sum(document.size for document in batch)
            if sum(lengths[token] for document in ids for token in document) != batch_bytes:
                raise StageError(f"documents {batch[0].id} … {batch[-1].id}: tokens lose bytes; the tokenizer is not byte-level")
            writer.write([[*document, end] for document in ids])
            done, size = done + len(batch), size + batch_bytes
            progress(done)
        tokens = writer.tokens
    write_token_bytes(folder, lengths)
    return Encoded(done, tokens, size)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
