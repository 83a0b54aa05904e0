"""Downloaded files, shared by every campaign of a site: found by name and version, checked, and never half-written."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.files import sha256_of
from athanor.artifacts.run import StageError

PARTIAL = ".partial-"
ABANDONED_SECONDS = 24 * 3600  # a download that began longer ago was killed


@dataclass(frozen=True)
class Package:
    """A package file in the cache."""

    path: Path
    version: str
    sha256: str


@dataclass(frozen=True)
class Wanted:
    """A package that is looked for: how people call it, its place in the cache, and how to know its file."""

    name: str  # `networkx==3.6.1`
    shelf: str  # folder below the cache: `pip/networkx`
    version_of: Callable[[str], str | None]  # the version a file name stands for; None for other files
    sha256: str  # empty accepts any
    floats: bool  # no version was asked for, so a copy found here may be an old one


class DownloadCache:
    """A folder of packages. Stages may ask for the same one at once: each renames a complete file into place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def obtain(self, wanted: Wanted, download: Callable[[Path], None]) -> Package:
        """The package, from the folder or else by `download`, which puts its file into the empty folder it is given.

        A floating package is always downloaded unless a checksum says which one is meant. Raises StageError naming
        both hashes when the checksum is another.
        """
        shelf = self.folder / wanted.shelf
        if not wanted.floats or wanted.sha256:
            found = [package for package in _packages(shelf, wanted) if wanted.sha256 in ("", package.sha256)]
            if len(found) > 1:
                names = ", ".join(package.path.name for package in found)
                raise StageError(f"{wanted.name}: {shelf} holds {names}; say which one by its sha256: athanor recipe lock")
            if found:
                return found[0]
        shelf.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(shelf)
        with tempfile.TemporaryDirectory(dir=shelf, prefix=PARTIAL) as partial:
            download(Path(partial))
            package = self._check(_only(Path(partial), wanted, shelf), wanted, shelf)
            final = shelf / package.path.name
            os.replace(package.path, final)
        return Package(final, package.version, package.sha256)

    def _check(self, package: Package, wanted: Wanted, shelf: Path) -> Package:
        if wanted.sha256 and package.sha256 != wanted.sha256:
            raise StageError(
                f"{wanted.name}: sha256 of {package.path.name} is {package.sha256}, the recipe says {wanted.sha256}. "
                "Either the index serves another file than it did, or the recipe's hash is wrong: find out which, then "
                f"run `athanor recipe lock`, or put the file with the recipe's hash into {shelf}"
            )
        return package


def _packages(shelf: Path, wanted: Wanted) -> list[Package]:
    paths = sorted(shelf.iterdir()) if shelf.is_dir() else []
    versions = [(path, wanted.version_of(path.name)) for path in paths if path.is_file()]
    return [Package(path, version, sha256_of(path)) for path, version in versions if version is not None]


def _only(folder: Path, wanted: Wanted, shelf: Path) -> Package:
    packages = _packages(folder, wanted)
    if len(packages) != 1:
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise StageError(f"{wanted.name}: the download brought {names}, expected its one file; put that into {shelf}")
    return packages[0]


def _remove_abandoned(shelf: Path) -> None:
    for path in shelf.glob(PARTIAL + "*"):
        if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
