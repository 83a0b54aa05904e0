"""Ask an exported model the recipe's suites with lm-eval."""

from pathlib import Path

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.data.documents import HELD_OUT_FILE, read_documents, training_file
from athanor.evaluation.harness import prepare_environment
from athanor.evaluation.scores import SCORES_FILE
from athanor.evaluation.suites import Corpus, evaluate, suite_files
from athanor.evaluation.tasks import SuiteError


def run(stage: StageRun) -> Outcome:
    """`scores.json` of the model, and `suites/`, with which lm-eval's own command repeats it."""
    prepare_environment(stage.folder / "cache")
    recipe = stage.recipe
    batches = 0

    def on_batch() -> None:
        nonlocal batches
        if stage.stop_requested:
            raise Stopped(f"evaluate of {stage.instance} after {batches} batches; finished suites are kept")
        batches += 1
        stage.progress(batches, 0, "batches")  # how many there will be, only lm-eval knows

    model = stage.input_named("model")
    corpora = {name: _corpus(stage, name) for name in sorted(recipe.data.sources) if name in stage.inputs}
    try:
        finished = evaluate(
            model.folder / "model", stage.folder, corpora, recipe.evaluate, recipe.model.max_sequence_length, on_batch
        )
    except SuiteError as error:
        raise StageError(str(error)) from error
    metrics = {f"{score.task}/{score.metric}": score.value for score in finished.scores}
    errors = {f"{score.task}/{score.metric}_stderr": score.stderr for score in finished.scores}
    stage.spool.metrics(int(model.counters.get("step", 0)), {**metrics, **errors})
    return Outcome(files=(SCORES_FILE, *suite_files(stage.folder)), counters=dict(finished.counts), metrics={**metrics, **errors})


def _corpus(stage: StageRun, name: str) -> Corpus:
    source = stage.recipe.data.sources[name]
    folder: Path = stage.input_named(name).folder
    shards = [folder / training_file(k, source.shards) for k in range(source.shards)]
    return Corpus(
        domain=source.domain,
        held_out=lambda: read_documents(folder / HELD_OUT_FILE),
        training=lambda: (document for shard in shards for document in read_documents(shard)),
    )
