"""From the files of a source to records: one module a family of formats, none of which knows where files come from."""

from collections.abc import Callable, Iterable, Iterator

from athanor.artifacts.run import StageError
from athanor.data.formats.biology import read_fasta
from athanor.data.formats.dictionary import read_dictd
from athanor.data.formats.ontology import read_obo
from athanor.data.formats.plain import read_whole_file
from athanor.data.formats.record import Record, SourceFile
from athanor.data.formats.tabular import read_json, read_jsonl, read_tsv
from athanor.recipe.schema.choices import DocumentFormat
from athanor.recipe.schema.recipe import Source

Reader = Callable[[SourceFile, Source], Iterator[Record]]

READERS: dict[DocumentFormat, Reader] = {
    DocumentFormat.JSON: read_json,
    DocumentFormat.JSONL: read_jsonl,
    DocumentFormat.TSV: read_tsv,
    DocumentFormat.CODE: read_whole_file,
    DocumentFormat.TEXT: read_whole_file,
    DocumentFormat.OBO: read_obo,
    DocumentFormat.DICTD: read_dictd,
    DocumentFormat.FASTA: read_fasta,
}


def read_records(files: Iterable[SourceFile], source: Source) -> Iterator[Record]:
    """The records of all files, one file after another.

    Raises StageError when a file is not of `source.format`, naming the file.
    """
    reader = READERS.get(source.format)
    if reader is None:
        ways = ", ".join(READERS)
        raise StageError(f"format {source.format} cannot be read from the files of kind {source.kind}; use one of {ways}")
    for file in files:
        yield from reader(file, source)
