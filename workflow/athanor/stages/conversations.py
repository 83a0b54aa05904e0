"""Make the conversations of one fine-tuning task from the records of its source."""

import shutil

from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, write_conversations
from athanor.data.sources import open_source
from athanor.data.sources.cache import cache_of
from athanor.recipe.loading import project_folder

REPORT_EVERY_RECORDS = 1024


def run(stage: StageRun) -> Outcome:
    """`train.jsonl.gz` and `held_out.jsonl.gz` of task `stage.instance`."""
    recipe = stage.recipe
    task = recipe.sft.tasks[stage.instance]
    source = recipe.data.sources[task.source]
    scratch = stage.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed attempt
    scratch.mkdir()

    def progress(records: int) -> None:
        if records % REPORT_EVERY_RECORDS == 0:
            stage.progress(records, 0, "records")  # how many there are is known at the end
            if stage.stop_requested:
                raise Stopped(f"conversations of {stage.instance} after {records} records")

    opened = open_source(source, cache_of(stage), scratch, project_folder())
    tokens = recipe.tokenizer.special_tokens
    made = write_conversations(opened.records, source, task, recipe.data, tokens, stage.folder, progress)
    shutil.rmtree(scratch)
    identity = {"version": opened.version, "sha256": opened.sha256}
    stage.spool.dataset(
        name=stage.instance,
        digest=stage.fingerprint,
        source=f"{source.kind}:{source.package or source.path}",
        context="sft",
        profile={**made.counters(), "taxonomy": "/".join(task.taxonomy), "licence": source.licence, **identity},
    )
    return Outcome(files=(TRAINING_FILE, HELD_OUT_FILE), counters={**made.counters(), **identity})
