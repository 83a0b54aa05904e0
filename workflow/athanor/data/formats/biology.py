"""Sequences of proteins and nucleotides in FASTA, with UniProt's header fields where they are there.

Source: https://www.uniprot.org/help/fasta-headers (`>db|accession|name Description OS=Organism GN=gene PE=4 SV=1`).
"""

import re
from collections.abc import Iterator

from athanor.data.formats.record import Record, SourceFile, open_text
from athanor.recipe.schema.recipe import Source

PAIR = re.compile(r"\s(\w+)=")
NAMES = {"OS": "organism", "GN": "gene", "OX": "taxon"}


def read_fasta(file: SourceFile, _: Source) -> Iterator[Record]:
    """One record a sequence: `id`, `description`, `sequence`, and `organism`, `gene`, `taxon` if the header has them.

    Lines of one sequence are joined; other `KEY=value` pairs become fields under their own name.
    """
    header, sequence = "", list[str]()
    with open_text(file) as lines:
        for line in map(str.strip, lines):
            if line.startswith(">"):
                if header:
                    yield _record(header, sequence)
                header, sequence = line[1:], []
            else:
                sequence.append(line)
    if header:
        yield _record(header, sequence)


def _record(header: str, sequence: list[str]) -> Record:
    name, _, rest = header.partition(" ")
    description, *pairs = PAIR.split(" " + rest)
    fields = {"id": name, "description": description.strip(), "sequence": "".join(sequence)}
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        fields[NAMES.get(key, key)] = value.strip()
    return Record(name, fields)
