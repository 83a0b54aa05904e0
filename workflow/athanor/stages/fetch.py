"""Fetch one source and write its training shards and held-out documents."""

import shutil

from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.data.corpus import write_corpus
from athanor.data.sources import open_source
from athanor.data.sources.cache import cache_of
from athanor.recipe.loading import project_folder

REPORT_EVERY_RECORDS = 1024


def run(stage: StageRun) -> Outcome:
    """The documents of source `stage.instance`."""
    source = stage.recipe.data.sources[stage.instance]
    scratch = stage.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed attempt
    scratch.mkdir()

    def progress(records: int) -> None:
        if records % REPORT_EVERY_RECORDS == 0:
            stage.progress(records, 0, "records")  # how many there are is known at the end
            if stage.stop_requested:
                raise Stopped(f"fetch of {stage.instance} after {records} records")

    opened = open_source(source, cache_of(stage), scratch, project_folder())
    corpus = write_corpus(opened.records, source, stage.recipe.data, stage.folder, scratch, progress)
    shutil.rmtree(scratch)
    identity = {"version": opened.version, "sha256": opened.sha256}
    stage.spool.dataset(
        name=stage.instance,
        digest=stage.fingerprint,
        source=f"{source.kind}:{source.package or source.path}",
        context="fetch",
        profile={**corpus.counters(), "licence": source.licence, "domain": source.domain, **identity},
    )
    return Outcome(files=tuple(corpus.files), counters={**corpus.counters(), **identity})
