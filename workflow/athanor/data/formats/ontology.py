"""OBO ontologies (Gene Ontology, ChEBI …), the flat file format 1.2: one record a term.

Source: https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_2.html
"""

import re
from collections.abc import Iterator

from athanor.data.formats.record import Record, SourceFile, open_text
from athanor.recipe.schema.recipe import Source

QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:(?:EXACT|BROAD|NARROW|RELATED)\s+)?([A-Za-z]\w*)?')
ESCAPED = re.compile(r"\\(.)")
ESCAPES = {"n": "\n", "t": "\t", "W": " "}
COMMENT = re.compile(r"\s+! .*$")


def read_obo(file: SourceFile, _: Source) -> Iterator[Record]:
    """Terms that are not obsolete: `id`, `name`, `namespace`, `definition`, `comment`, `is_a` and `synonyms` (lists).

    A typed synonym becomes a field named by its type in lower case (ChEBI's `smiles`, `formula`, `inchi`,
    `iupac_name`), the first one where there are several.
    """
    with open_text(file) as lines:
        for stanza, tags in _stanzas(lines):
            if stanza == "[Term]" and ("is_obsolete", "true") not in tags:
                fields = _fields(tags)
                yield Record(str(fields.get("id", "")), fields)


def _stanzas(lines: Iterator[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each stanza's header and its tag-value pairs; the file's own header comes first, under an empty name."""
    stanza: str = ""
    tags: list[tuple[str, str]] = []
    for line in map(str.strip, lines):
        if line.startswith("[") and line.endswith("]"):
            yield stanza, tags
            stanza, tags = line, []
        elif ":" in line and not line.startswith("!"):
            tag, value = line.split(":", 1)
            tags.append((tag, value.strip()))
    yield stanza, tags


def _fields(tags: list[tuple[str, str]]) -> dict[str, str | list[str]]:
    synonyms: list[str] = []
    parents: list[str] = []
    fields: dict[str, str | list[str]] = {"synonyms": synonyms, "is_a": parents}
    for tag, value in tags:
        if tag == "def":
            fields["definition"] = _quoted(value)[0]
        elif tag == "synonym":
            text, kind = _quoted(value)
            if kind:
                fields.setdefault(kind.lower(), text)
            elif text not in synonyms:
                synonyms.append(text)
        elif tag == "is_a":
            parents.append(COMMENT.sub("", value))
        else:
            fields.setdefault(tag, value)
    return fields


def _quoted(value: str) -> tuple[str, str | None]:
    """The text between the quotes, and the type after a synonym's scope."""
    found = QUOTED.match(value)
    if not found:
        return value, None
    return ESCAPED.sub(lambda m: ESCAPES.get(m[1], m[1]), found[1]), found[2]
