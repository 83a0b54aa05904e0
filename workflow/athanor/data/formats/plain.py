"""Files that are one document each: source code and plain text."""

from collections.abc import Iterator

from athanor.data.formats.record import Record, SourceFile, open_text
from athanor.recipe.schema.recipe import Source


def read_whole_file(file: SourceFile, _: Source) -> Iterator[Record]:
    """The file as one record with the fields `text`, `path` and `name`; line ends become newlines."""
    with open_text(file) as text:
        content = text.read().replace("\r\n", "\n")
    yield Record(file.name, {"text": content, "path": file.name, "name": file.name.rsplit("/", 1)[-1]})
