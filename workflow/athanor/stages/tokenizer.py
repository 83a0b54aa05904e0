"""Train the tokenizer on the training documents of all sources, or take the one that the weights were trained with."""

from collections import Counter
from collections.abc import Iterator

from athanor.artifacts.run import Outcome, StageError, StageRun, Stopped
from athanor.data.bpe import adopt, sample_texts, save, train
from athanor.data.documents import training_file
from athanor.models.folder_files import FolderError, require_digest
from athanor.recipe.loading import project_folder

REPORT_EVERY_DOCUMENTS = 256


def run(stage: StageRun) -> Outcome:
    """`tokenizer.json` and `tokenizer_config.json`."""
    recipe = stage.recipe
    if recipe.pretrain.init_from:
        return _of_the_weights(stage)
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


def _of_the_weights(stage: StageRun) -> Outcome:
    """The tokenizer of the folder `pretrain.init_from`: to its weights, another one's ids would mean other words."""
    recipe = stage.recipe
    folder = project_folder() / recipe.pretrain.init_from

    def hashed(done: int, total: int) -> None:
        stage.progress(done // 1_000_000, total // 1_000_000, "MB hashed")
        if stage.stop_requested:
            raise Stopped("before the folder was hashed")

    try:
        require_digest(folder, recipe.pretrain.init_from_sha256, hashed, "pretrain.init_from")
    except FolderError as error:
        raise StageError(str(error)) from error
    encoder, written = adopt(folder, recipe.tokenizer, recipe.model.vocab_size, stage.folder)
    return Outcome(files=written, counters={"vocabulary": encoder.get_vocab_size()})
