"""Rows of a Hugging Face dataset: from the hub, or from a folder that `datasets` can read."""

from collections.abc import Iterator
from pathlib import Path

from athanor.artifacts.run import StageError
from athanor.data.formats.record import Record
from athanor.data.sources.cache import DownloadCache
from athanor.recipe.schema.choices import DocumentFormat
from athanor.recipe.schema.recipe import Source


def read_rows(source: Source, cache: DownloadCache) -> Iterator[Record]:
    """The rows of `package` at revision `version`; `path` is `[CONFIGURATION/]SPLIT`, by default `train`.

    A row's id is its place in the split. Raises StageError when the dataset cannot be read.
    """
    if source.format is not DocumentFormat.ROWS:
        raise StageError(f"{source.package}: a Hugging Face dataset has rows; set format: rows, not {source.format}")
    import datasets  # takes over a second, and only this kind needs it

    configuration, _, split = (source.path or "train").rpartition("/")
    try:
        rows = datasets.load_dataset(
            source.package,
            configuration or None,
            split=split,
            revision=source.version or None,
            cache_dir=str(cache.folder / "huggingface"),
            streaming=not Path(source.package).is_dir(),
        )
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise StageError(
            f"dataset {source.package} ({source.path or 'train'}, revision {source.version or 'newest'}): {error}. "
            "Check the name; a private one needs HF_TOKEN; without a network, name a folder that holds its files"
        ) from error
    return (Record(f"{split}:{number}", row) for number, row in enumerate(rows))


def newest_revision(source: Source) -> str:
    """The commit a hub dataset is at, or the given revision; a local folder has none. Raises StageError offline."""
    if source.version or Path(source.package).is_dir():
        return source.version
    import huggingface_hub

    try:
        return huggingface_hub.dataset_info(source.package).sha or ""
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise StageError(f"dataset {source.package}: its revision cannot be asked for ({error})") from error
