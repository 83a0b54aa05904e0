"""A source read by a stage: from the site's cache, in a scratch folder that goes when all is read, with progress and stop."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.run import StageRun, Stopped
from athanor.artifacts.store import download_folder
from athanor.data.sources import Opened, open_source
from athanor.data.sources.cache import DownloadCache
from athanor.recipe.loading import project_folder
from athanor.recipe.schema.recipe import Source

REPORT_EVERY_RECORDS = 1024


@dataclass(frozen=True)
class Reading:
    """A source that a stage has opened."""

    opened: Opened
    scratch: Path  # for what does not fit memory
    progress: Callable[[int], None]  # is told the records read; raises Stopped where the stage is asked to stop

    def identity(self) -> dict[str, str]:
        """Which bytes were read, for the manifest."""
        return {"version": self.opened.version, "sha256": self.opened.sha256}


@contextmanager
def reading(stage: StageRun, source: Source) -> Iterator[Reading]:
    """Open `source` for `stage`. Raises StageError when it cannot be had or its checksum is another."""
    scratch = stage.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed attempt
    scratch.mkdir()

    def progress(records: int) -> None:
        if records % REPORT_EVERY_RECORDS == 0:
            stage.progress(records, 0, "records")  # how many there are is known at the end
            if stage.stop_requested:
                raise Stopped(f"{stage.stage} of {stage.instance} after {records} records")

    cache = DownloadCache(download_folder(stage.site) if stage.site else stage.folder / "downloads")
    yield Reading(open_source(source, cache, scratch, project_folder()), scratch, progress)
    shutil.rmtree(scratch)
