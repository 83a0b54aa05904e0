"""Fetch one source and write its training shards and held-out documents."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.data.corpus import write_corpus
from athanor.data.sources.reading import reading


def run(stage: StageRun) -> Outcome:
    """The documents of source `stage.instance`."""
    source = stage.recipe.data.sources[stage.instance]
    with reading(stage, source) as read:
        corpus = write_corpus(read.opened.records, source, stage.recipe.data, stage.folder, read.scratch, read.progress)
    stage.spool.dataset(
        name=stage.instance,
        digest=stage.fingerprint,
        source=f"{source.kind}:{source.package or source.path}",
        context="fetch",
        profile={**corpus.counters(), "licence": source.licence, "domain": source.domain, **read.identity()},
    )
    return Outcome(files=tuple(corpus.files), counters={**corpus.counters(), **read.identity()})
