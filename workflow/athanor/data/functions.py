"""The documented functions of a Python file, each with its code as it would be without the documentation."""

import ast
import inspect
import textwrap
from collections.abc import Iterator

from athanor.data.formats.record import Record


def documented_functions(record: Record) -> Iterator[Record]:
    """Functions and methods of the record's `text` that have a docstring: records with the fields `name`, `code`, `docstring`
    and `summary` (its first paragraph, on one line). Nothing of a file that this Python does not parse.
    """
    text = str(record.fields.get("text", ""))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1 and ast.get_docstring(node):
            docstring = inspect.cleandoc(ast.get_docstring(node) or "")
            summary = " ".join(docstring.split("\n\n")[0].split())
            fields = {"name": node.name, "code": _without_docstring(node, lines), "docstring": docstring, "summary": summary}
            yield Record(f"{record.id}:{node.lineno}:{node.name}", fields)


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    said = node.body[0]
    assert node.end_lineno is not None and said.end_lineno is not None
    return textwrap.dedent(
        "".join([*lines[node.lineno - 1 : said.lineno - 1], *lines[said.end_lineno : node.end_lineno]])
    ).rstrip()
