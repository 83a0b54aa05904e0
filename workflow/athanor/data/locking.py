"""`athanor recipe lock`: resolve floating sources to exact versions and hashes, in `NAME.lock.yaml` beside the recipe."""

import sys

import yaml

from athanor.artifacts.files import write_atomically
from athanor.artifacts.run import StageError
from athanor.artifacts.store import download_folder
from athanor.data.sources import resolve_source
from athanor.data.sources.cache import DownloadCache
from athanor.recipe.consistency import floating
from athanor.recipe.loading import load_site, project_folder, read_recipe
from athanor.recipe.problems import RecipeError
from athanor.recipe.site import DEFAULT_SITE


def lock(name: str, site: str = DEFAULT_SITE) -> int:
    """Download what floats, write the lock file and say what was found. Returns the exit code.

    Raises RecipeError for what a lock cannot mend.
    """
    loaded = read_recipe(name)
    open_sources = {key: source for key, source in loaded.recipe.data.sources.items() if floating(source)}
    others = [p for p in loaded.problems if p.key.removeprefix("data.sources.") not in open_sources]
    if others:
        raise RecipeError(f"recipe {name}", others)
    if not open_sources:
        print(f"recipe {name}: nothing floats")
        return 0
    cache = DownloadCache(download_folder(load_site(site)))
    locked: dict[str, dict[str, str]] = {}
    for key, source in open_sources.items():
        try:
            version, sha256 = resolve_source(source, cache, project_folder())
        except StageError as error:
            print(f"data.sources.{key}: {error}", file=sys.stderr)
            return 1
        locked[key] = {"version": version, "sha256": sha256}
        print(f"data.sources.{key}: {source.package or source.path} {version} {sha256[:12]}")
    path = project_folder() / "config" / "recipes" / f"{name}.lock.yaml"
    before = yaml.safe_load(path.read_text()) if path.is_file() else {"data": {"sources": {}}}
    before["data"]["sources"].update(locked)
    header = f"# Written by `athanor recipe lock {name}`; delete a line to let it float again.\n"
    write_atomically(path, header + yaml.safe_dump(before))
    print(f"wrote {path}")
    return 0
