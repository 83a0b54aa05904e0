"""Make the conversations of one fine-tuning task from the records of its source."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, write_conversations
from athanor.data.sources.reading import reading


def run(stage: StageRun) -> Outcome:
    """`train.jsonl.gz` and `held_out.jsonl.gz` of task `stage.instance`."""
    recipe = stage.recipe
    task = recipe.sft.tasks[stage.instance]
    source = recipe.data.sources[task.source]
    with reading(stage, source) as read:
        tokens = recipe.tokenizer.special_tokens
        made = write_conversations(read.opened.records, source, task, recipe.data, tokens, stage.folder, read.progress)
    stage.spool.dataset(
        name=stage.instance,
        digest=stage.fingerprint,
        source=f"{source.kind}:{source.package or source.path}",
        context="sft",
        profile={**made.counters(), "taxonomy": "/".join(task.taxonomy), "licence": source.licence, **read.identity()},
    )
    return Outcome(files=(TRAINING_FILE, HELD_OUT_FILE), counters={**made.counters(), **read.identity()})
