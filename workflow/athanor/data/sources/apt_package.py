"""Debian packages: `apt-get download`, then files are taken out with dpkg-deb. Nothing is installed, no root needed."""

import shutil
import subprocess
import tarfile
import urllib.parse
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.data.formats.record import SourceFile
from athanor.data.sources.cache import DownloadCache, Package, Wanted
from athanor.data.sources.command import run_tool
from athanor.data.sources.matching import matches, require_inside, select
from athanor.recipe.schema.recipe import Source


def obtain(source: Source, cache: DownloadCache) -> Package:
    """The .deb file, from the cache or the archive; `version` is a prefix (Debian keeps only the newest of a release).

    Raises StageError when it cannot be had or is another file.
    """
    requirement = f"{source.package}={source.version}*" if source.version else source.package
    shelf = f"apt/{source.package}"

    def version_of(file: str) -> str | None:
        name, _, rest = file.removesuffix(".deb").partition("_")
        version = urllib.parse.unquote(rest.rpartition("_")[0])  # the epoch's colon is written %3a
        known = file.endswith(".deb") and name == source.package and version.startswith(source.version)
        return version if known and version else None

    def download(folder: Path) -> None:
        place = f"put {source.package}_VERSION_ARCH.deb into {cache.folder / shelf}"
        if shutil.which("apt-get") is None:
            raise StageError(f"{requirement}: this machine has no apt-get; on one that has, `apt-get download`, then {place}")
        way_out = (
            "apt-get download needs package lists (`apt-get update`, as root) and a network; an archive keeps only its "
            f"newest version, which `athanor recipe lock` takes; or {place}"
        )
        run_tool(["apt-get", "download", "--quiet", requirement], folder, way_out)

    return cache.obtain(Wanted(requirement, shelf, version_of, source.sha256, not source.version), download)


def unpack(package: Path, path: str, folder: Path) -> list[SourceFile]:
    """Take out the files `path` means, without writing the others (emboss-data holds 454 MB, of which 60 are used).

    Links are passed over. Raises StageError when dpkg-deb is missing, the package is damaged, or no file matches.
    """
    if shutil.which("dpkg-deb") is None:
        raise StageError(f"{package.name}: this machine has no dpkg-deb to unpack it; install the package dpkg")
    names: list[str] = []
    files: dict[str, SourceFile] = {}
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile():
                        names.append(member.name)
                    if member.isfile() and matches(member.name, path):
                        files[member.name] = _extract(archive, member, folder, package.name)
            process.stdout.read()  # the padding at the end: dpkg-deb must not meet a closed pipe
        except tarfile.TarError as error:
            process.stdout.close()  # else dpkg-deb and we may wait for one another
            complaint = process.stderr.read().decode(errors="replace").strip()
            raise StageError(f"{package}: {complaint or error}; delete it, and it is downloaded again") from error
    if process.returncode != 0:
        raise StageError(f"{package}: dpkg-deb ended with {process.returncode}; delete it, and it is downloaded again")
    return [files[name] for name in select(names, path, package.name)]


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, package: str) -> SourceFile:
    inside = require_inside(member.name, package)
    target = folder / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    packed = archive.extractfile(member)
    assert packed is not None  # a regular file
    with packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return SourceFile(inside, target)
