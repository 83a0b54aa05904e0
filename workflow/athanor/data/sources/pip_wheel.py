"""Wheels from a Python package index, by pip with the user's own configuration; unpacked as the zip files they are."""

import re
import shutil
import sys
import zipfile
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.data.formats.record import SourceFile
from athanor.data.sources.cache import DownloadCache, Package, Wanted
from athanor.data.sources.command import run_tool
from athanor.data.sources.matching import require_inside, select
from athanor.recipe.schema.recipe import Source

SEPARATORS = re.compile(r"[-_.]+")


def obtain(source: Source, cache: DownloadCache) -> Package:
    """The wheel, from the cache or the index. Raises StageError when it cannot be had or is another file."""
    requirement = f"{source.package}=={source.version}" if source.version else source.package
    name = _normalised(source.package)

    def version_of(file: str) -> str | None:
        parts = file.removesuffix(".whl").split("-")
        known = file.endswith(".whl") and len(parts) >= 5 and _normalised(parts[0]) == name
        return parts[1] if known and source.version in ("", parts[1]) else None

    def download(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-input"]
        way_out = (
            f"On a machine without a network, put the wheel of {requirement} into {cache.folder / 'pip' / name}; "
            f"`{sys.executable} -m ensurepip` installs a missing pip"
        )
        run_tool([*pip, "--no-deps", "--only-binary", ":all:", "--dest", ".", requirement], folder, way_out)

    return cache.obtain(Wanted(requirement, f"pip/{name}", version_of, source.sha256, not source.version), download)


def unpack(wheel: Path, path: str, folder: Path) -> list[SourceFile]:
    """Unpack the files `path` means. Raises StageError when there are none."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = (info.filename for info in archive.infolist() if not info.is_dir())
            return [_extract(archive, name, folder, wheel.name) for name in select(names, path, wheel.name)]
    except zipfile.BadZipFile as error:
        raise StageError(f"{wheel}: not a wheel ({error}); delete it, and it is downloaded again") from error


def _extract(archive: zipfile.ZipFile, name: str, folder: Path, wheel: str) -> SourceFile:
    inside = require_inside(name, wheel)
    target = folder / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return SourceFile(inside, target)


def _normalised(package: str) -> str:
    """PEP 503: `Foo.Bar_baz` and `foo-bar-baz` are one package."""
    return SEPARATORS.sub("-", package).lower()
