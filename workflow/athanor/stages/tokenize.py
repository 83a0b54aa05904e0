"""Turn one shard of documents into token ids: instance SOURCE-K, or SOURCE-held_out."""

from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.data.bpe import load
from athanor.data.documents import documents_file, read_documents
from athanor.data.encoding import encode_documents
from athanor.recipe.graph import HELD_OUT


def run(stage: StageRun) -> Outcome:
    """Megatron's `tokens.bin` and `tokens.idx`, and the bytes of each token id."""
    source, _, part = stage.instance.rpartition("-")
    shards = stage.recipe.data.sources[source].shards
    documents = stage.input_named("documents")
    if part == HELD_OUT:
        total = int(documents.counters["held_out_documents"])
    else:
        total = -(-(int(documents.counters["documents"]) - int(part)) // shards)  # document i is in shard i % shards

    def progress(done: int) -> None:
        stage.progress(done, total, "documents")
        if stage.stop_requested and done < total:
            raise Stopped(f"tokenize of {stage.instance} after {done} of {total} documents")

    encoded = encode_documents(
        read_documents(documents.folder / documents_file(part, shards)),
        load(stage.input_named("tokenizer").folder),
        stage.recipe.tokenizer.special_tokens[0],
        stage.folder,
        progress,
    )
    counters: dict[str, int | str] = {"tokens": encoded.tokens, "documents": encoded.documents, "bytes": encoded.bytes}
    return Outcome(files=encoded.files, counters=counters)
