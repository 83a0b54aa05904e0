"""One source made into training shards and held-out documents: filter, shuffle, deduplicate, cap, split, write."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.data.documents import HELD_OUT_FILE, Document, JsonlWriter, is_utf8, training_file
from athanor.data.formats.record import Record
from athanor.data.ordering import shuffled
from athanor.data.split import is_held_out
from athanor.data.template import Template
from athanor.recipe.schema.recipe import Data, Source


@dataclass
class Corpus:
    """What became of the records of a source. Sizes are UTF-8 bytes of text."""

    documents: int = 0  # training documents
    bytes: int = 0  # of the training documents
    held_out_documents: int = 0
    held_out_bytes: int = 0
    records: int = 0  # read from the source's files, up to where reading ended
    missing_field: int = 0  # records without a field of the template, or whose field is blank
    undecodable: int = 0  # records that are not valid UTF-8
    duplicates: int = 0  # texts already seen, up to where the cap was reached
    beyond_cap: int = 0  # documents left because `max_bytes` was reached
    files: list[str] = field(default_factory=list)

    def counters(self) -> dict[str, int | str]:
        """The counts, for the manifest."""
        return {name: value for name, value in vars(self).items() if name != "files"}


def write_corpus(
    records: Iterable[Record], source: Source, data: Data, folder: Path, scratch: Path, progress: Callable[[int], None]
) -> Corpus:
    """Write `train-K-of-N.jsonl.gz` and `held_out.jsonl.gz` below `folder`; training document i goes to shard i % N.

    `progress` is told the number of records read; what does not fit memory lies below `scratch` meanwhile. Raises
    StageError when no document is left to train on or to hold out.
    """
    corpus = Corpus(files=[*(training_file(k, source.shards) for k in range(source.shards)), HELD_OUT_FILE])
    with contextlib.ExitStack() as stack:
        *shards, held_out = [stack.enter_context(JsonlWriter(folder / name)) for name in corpus.files]
        ordered = shuffled(_documents(records, source, corpus, progress), data.split_seed, scratch)
        for document in _capped(ordered, source.max_bytes, corpus):
            if is_held_out(document, data.held_out_fraction, data.split_seed):
                held_out.write(document)
                corpus.held_out_documents += 1
                corpus.held_out_bytes += document.size
            else:
                shards[corpus.documents % source.shards].write(document)
                corpus.documents += 1
                corpus.bytes += document.size
        read = corpus.records - corpus.missing_field - corpus.undecodable
        corpus.beyond_cap = read - corpus.duplicates - corpus.documents - corpus.held_out_documents
        _require_documents(corpus, source, data)
    return corpus


def _documents(records: Iterable[Record], source: Source, corpus: Corpus, progress: Callable[[int], None]) -> Iterator[Document]:
    text, entity = Template(source.template), Template(source.entity)
    for record in records:
        corpus.records += 1
        progress(corpus.records)
        filled, about = text.fill(record.fields), entity.fill(record.fields)
        if filled is None or about is None or not filled.strip():
            corpus.missing_field += 1
        elif is_utf8(filled) and is_utf8(about):
            yield Document(record.id, filled, about)
        else:
            corpus.undecodable += 1


def _capped(ordered: Iterable[tuple[Document, bool]], max_bytes: int, corpus: Corpus) -> Iterator[Document]:
    """Distinct documents until the next one would pass the cap: ending there, not skipping long ones, keeps it fair."""
    taken = 0
    for document, is_duplicate in ordered:
        if is_duplicate:
            corpus.duplicates += 1
            continue
        taken += document.size
        if max_bytes and taken > max_bytes:
            return
        yield document


def _require_documents(corpus: Corpus, source: Source, data: Data) -> None:
    if corpus.documents >= source.shards and corpus.held_out_documents:
        return
    raise StageError(
        f"{source.package or source.path}: {corpus.documents} documents to train on in {source.shards} shards and "
        f"{corpus.held_out_documents} held out, of {corpus.records} records ({corpus.missing_field} lack a field of "
        f"template {source.template!r} or entity {source.entity!r}, {corpus.undecodable} are not UTF-8, "
        f"{corpus.duplicates} are duplicates, {corpus.beyond_cap} are beyond max_bytes={source.max_bytes}); "
        f"check path and template, raise held_out_fraction={data.held_out_fraction} or max_bytes, or lower shards"
    )
