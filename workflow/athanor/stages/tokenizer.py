"""Train the tokenizer on the training documents of all sources."""

from collections import Counter
from collections.abc import Iterator

from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.data.bpe import sample_texts, save, train
from athanor.data.documents import training_file

REPORT_EVERY_DOCUMENTS = 256


def run(stage: StageRun) -> Outcome:
    """`tokenizer.json` and `tokenizer_config.json`."""
    recipe = stage.recipe
    files = {
        name: [stage.input_named(name).folder / training_file(k, source.shards) for k in range(source.shards)]
        for name, source in recipe.data.sources.items()
        if name in recipe.pretrain.mixture
    }
    sampled: Counter[str] = Counter()

    def texts() -> Iterator[str]:
        for number, (name, text) in enumerate(sample_texts(files, recipe.pretrain.mixture, recipe.tokenizer.sample_bytes)):
            sampled[name] += len(text.encode())
            if number % REPORT_EVERY_DOCUMENTS == 0:
                stage.progress(min(sampled.total(), recipe.tokenizer.sample_bytes), recipe.tokenizer.sample_bytes, "bytes")
                if stage.stop_requested:
                    raise Stopped("before the tokenizer was trained")
            yield text

    encoder = train(texts(), recipe.tokenizer)
    written = save(encoder, recipe.tokenizer, stage.folder)
    counters = {f"bytes_{name}": size for name, size in sorted(sampled.items())}
    return Outcome(files=written, counters={"vocabulary": encoder.get_vocab_size(), **counters})
