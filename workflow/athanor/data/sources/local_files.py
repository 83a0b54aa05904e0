"""Files of this machine, read where they lie."""

import hashlib
from pathlib import Path

from athanor.artifacts.files import sha256_of
from athanor.artifacts.run import StageError
from athanor.data.formats.record import SourceFile
from athanor.data.sources.matching import select
from athanor.recipe.schema.recipe import Source

WILD = "*?["


def find(path: str, project: Path) -> list[SourceFile]:
    """The files `path` means, relative to the project folder (or absolute), sorted by name.

    A name is relative to the deepest folder of `path` without a wildcard, so it is the same wherever the folder lies.
    Raises StageError when there is none.
    """
    parts = Path(path).parts
    fixed = next((i for i, part in enumerate(parts) if any(c in part for c in WILD)), len(parts))
    root = project / Path(*parts[:fixed])
    if root.is_file():
        return [SourceFile(root.name, root)]
    if not root.is_dir():
        raise StageError(f"source path {path!r}: {root} does not exist; paths are relative to the project folder {project}")
    names = (file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    return [SourceFile(name, root / name) for name in select(names, "/".join(parts[fixed:]), str(root))]


def digest(files: list[SourceFile]) -> str:
    """sha256 of a single file's content, or of the names and contents of several."""
    if len(files) == 1:
        return sha256_of(files[0].path)
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{sha256_of(file.path)}\n".encode())
    return total.hexdigest()


def require_digest(source: Source, found: str) -> None:
    """Raises StageError when the files are not those the recipe was locked to."""
    if source.sha256 and source.sha256 != found:
        raise StageError(
            f"{source.path}: sha256 of its files is {found}, the recipe says {source.sha256}. The files changed: bring "
            "back the old ones, or run `athanor recipe lock` to take the new ones"
        )
