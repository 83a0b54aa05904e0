"""The store: where artifacts live, by stage and fingerprint."""

from collections.abc import Iterator
from pathlib import Path

from athanor.artifacts.manifest import MANIFEST, Manifest, ManifestError
from athanor.recipe.graph import STAGES, Artifact
from athanor.recipe.loading import project_folder
from athanor.recipe.site import Site


class Store:
    """A folder `STAGE/FINGERPRINT/` an artifact. Everything inside is addressed relative to it, so it can be moved."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, artifact: Artifact) -> Path:
        """Where `artifact` lives."""
        return self.root / artifact.path

    def manifest_path(self, artifact: Artifact) -> Path:
        """The file whose existence means that `artifact` is done."""
        return self.folder(artifact) / MANIFEST

    def is_done(self, artifact: Artifact) -> bool:
        """Whether the artifact has its manifest."""
        return self.manifest_path(artifact).is_file()

    def manifest(self, artifact: Artifact) -> Manifest | None:
        """The artifact's manifest, or None while it is not done (or not readable)."""
        try:
            return Manifest.read(self.manifest_path(artifact))
        except ManifestError:
            return None

    def folders(self) -> Iterator[Path]:
        """Every artifact folder there is, finished or not."""
        for stage in STAGES:
            yield from sorted(p for p in (self.root / stage).glob("*") if p.is_dir() and not p.is_symlink())


def store_root(site: Site) -> Path:
    """The store as an absolute path; a relative one starts at the project folder."""
    return (project_folder() / site.store).absolute()


def download_folder(site: Site) -> Path:
    """Where downloaded packages are kept, shared by all campaigns of the site."""
    return project_folder() / site.download_cache if site.download_cache else store_root(site) / "downloads"
