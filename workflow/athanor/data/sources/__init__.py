"""Where a source's bytes come from: one adapter a kind. The rest of the room sees records and a checksum."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.data.formats import read_records
from athanor.data.formats.record import Record
from athanor.data.sources import apt_package, hub_dataset, local_files, pip_wheel, reasoning_gym_problems
from athanor.data.sources.cache import DownloadCache
from athanor.recipe.schema.choices import SourceKind
from athanor.recipe.schema.recipe import Source


@dataclass(frozen=True)
class Opened:
    """A source whose bytes are here: what was found, and its records."""

    version: str
    sha256: str  # of the downloaded file, or of all local files; empty for what `version` pins: a hub dataset, a generator
    records: Iterator[Record]


def open_source(source: Source, cache: DownloadCache, scratch: Path, project: Path) -> Opened:
    """Fetch a source (or find it in the cache) and check it; its records are read as they are asked for.

    Files are unpacked below `scratch`, which may be deleted once the records are read. Raises StageError when the
    source cannot be had or its checksum is another.
    """
    match source.kind:
        case SourceKind.PIP:
            package = pip_wheel.obtain(source, cache)
            files = pip_wheel.unpack(package.path, source.path, scratch)
        case SourceKind.APT:
            package = apt_package.obtain(source, cache)
            files = apt_package.unpack(package.path, source.path, scratch)
        case SourceKind.LOCAL:
            files = local_files.find(source.path, project)
            digest = local_files.digest(files)
            local_files.require_digest(source, digest)
            return Opened(source.version, digest, read_records(files, source))
        case SourceKind.HUGGINGFACE:
            return Opened(source.version, "", hub_dataset.read_rows(source, cache))
        case SourceKind.REASONING_GYM:
            return Opened(source.version, "", reasoning_gym_problems.read_problems(source))
    return Opened(package.version, package.sha256, read_records(files, source))


def resolve_source(source: Source, cache: DownloadCache, project: Path) -> tuple[str, str]:
    """(version, sha256) that pin a floating source, for `athanor recipe lock`. A given version is kept.

    A hub dataset is pinned by its revision alone, a generator by its package's version: the sha256 is empty. Raises StageError
    when it cannot be had.
    """
    match source.kind:
        case SourceKind.PIP:
            package = pip_wheel.obtain(source, cache)
        case SourceKind.APT:
            package = apt_package.obtain(source, cache)
        case SourceKind.LOCAL:
            return source.version, local_files.digest(local_files.find(source.path, project))
        case SourceKind.HUGGINGFACE:
            return hub_dataset.newest_revision(source), ""
        case SourceKind.REASONING_GYM:
            return source.version or reasoning_gym_problems.installed_version(), ""
        case _:
            raise StageError(f"kind {source.kind!r} is not one of {', '.join(SourceKind)}")
    return package.version, package.sha256
