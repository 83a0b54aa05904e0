"""Which files of a package or folder a source's `path` means: a file, a folder, or a glob."""

import re
from collections.abc import Iterable
from functools import cache

from athanor.artifacts.run import StageError

GLOB = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^]]+\]")
TRANSLATED = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
SHOWN = 5  # names listed in an error


def clean(name: str) -> str:
    """A name without the `./` that Debian packages put before it."""
    return name.removeprefix("./").strip("/")


def matches(name: str, path: str) -> bool:
    """Whether the file `name` is `path`, lies below it, or fits it as a glob (`*` within a folder, `**/` across)."""
    name, path = clean(name), clean(path)
    return not path or name == path or name.startswith(path + "/") or bool(_expression(path).fullmatch(name))


def select(names: Iterable[str], path: str, package: str) -> list[str]:
    """The names that match, sorted. Raises StageError when none does, with some that are there."""
    all_names = list(names)
    chosen = sorted(name for name in all_names if matches(name, path))
    if not chosen:
        suffix = path.rsplit(".", 1)[-1]
        near = sorted(all_names, key=lambda name: (not name.endswith(suffix), clean(name)))[:SHOWN]
        raise StageError(f"{package} has no file {path!r}; it has {', '.join(map(clean, near)) or 'no files'} …")
    return chosen


def require_inside(name: str, package: str) -> str:
    """The cleaned name. Raises StageError for one that would be written outside its folder."""
    if name.startswith("/") or ".." in name.split("/"):
        raise StageError(f"{package}: refuses to unpack {name!r}, which points outside its folder")
    return clean(name)


@cache
def _expression(path: str) -> re.Pattern[str]:
    expression, end = "", 0
    for found in GLOB.finditer(path):
        token = found[0]
        expression += re.escape(path[end : found.start()])
        expression += TRANSLATED.get(token) or token.replace("[!", "[^")
        end = found.end()
    return re.compile(expression + re.escape(path[end:]))
