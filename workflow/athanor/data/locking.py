"""`athanor recipe lock`: resolve what floats to exact versions and hashes, in `NAME.lock.yaml` beside the recipe."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from athanor.artifacts.files import write_atomically
from athanor.artifacts.run import StageError
from athanor.artifacts.store import download_folder
from athanor.data.sources import resolve_source
from athanor.data.sources.cache import DownloadCache
from athanor.models.folder_files import FolderError, digest
from athanor.recipe.consistency import floating
from athanor.recipe.folders import Folder, folders
from athanor.recipe.loading import load_site, project_folder, read_recipe
from athanor.recipe.problems import RecipeError
from athanor.recipe.schema.recipe import Source
from athanor.recipe.site import DEFAULT_SITE


def lock(name: str, site: str = DEFAULT_SITE) -> int:
    """Download and hash what floats, write the lock file and say what was found. Returns the exit code.

    Raises RecipeError for what a lock cannot mend.
    """
    loaded = read_recipe(name)
    open_sources = {key: source for key, source in loaded.recipe.data.sources.items() if floating(source)}
    open_folders = [folder for folder in folders(loaded.recipe) if folder.floats]
    mended = {f"data.sources.{key}" for key in open_sources} | {folder.key for folder in open_folders}
    others = [p for p in loaded.problems if p.key not in mended or "floats" not in p.advice]
    if others:
        raise RecipeError(f"recipe {name}", others)
    if not mended:
        print(f"recipe {name}: nothing floats")
        return 0
    found: dict[str, Any] = {}
    try:
        if open_sources:
            found["data"] = {"sources": _lock_sources(open_sources, site)}
        for folder in open_folders:
            section, _, key = folder.key.partition(".")
            found.setdefault(section, {})[f"{key}_sha256"] = _lock_folder(folder)
    except (StageError, FolderError) as error:
        print(error, file=sys.stderr)
        return 1
    path = project_folder() / "config" / "recipes" / f"{name}.lock.yaml"
    _write(path, name, found)
    print(f"wrote {path}")
    return 0


def _lock_sources(sources: Mapping[str, Source], site: str) -> dict[str, dict[str, str]]:
    cache = DownloadCache(download_folder(load_site(site)))
    locked: dict[str, dict[str, str]] = {}
    for key, source in sources.items():
        try:
            version, sha256 = resolve_source(source, cache, project_folder())
        except StageError as error:
            raise StageError(f"data.sources.{key}: {error}") from error
        locked[key] = {"version": version, "sha256": sha256}
        print(f"data.sources.{key}: {source.package or source.path} {version} {sha256[:12]}")
    return locked


def _lock_folder(folder: Folder) -> str:
    """Hash the folder's weights: minutes for hundreds of gigabytes, so it says how far it is."""

    def show(done: int, total: int) -> None:
        print(f"{folder.key}: {folder.path}: {done / 1e9:.3g} of {total / 1e9:.3g} GB hashed", file=sys.stderr)

    sha256 = digest(project_folder() / folder.path, show)
    print(f"{folder.key}: {folder.path} {sha256[:12]}")
    return sha256


def _write(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Lay `found` over what the lock file has."""
    locked = yaml.safe_load(path.read_text()) if path.is_file() else {}
    for section, values in found.items():
        before = locked.setdefault(section, {})
        if section == "data":
            before.setdefault("sources", {}).update(values["sources"])
        else:
            before.update(values)
    header = f"# Written by `athanor recipe lock {name}`; delete a line to let it float again.\n"
    write_atomically(path, header + yaml.safe_dump(locked))
