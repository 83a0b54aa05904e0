"""The suite `held_out_perplexity`: how well a model predicts documents of each domain it never saw."""

from collections.abc import Iterable, Mapping

from athanor.evaluation.tasks import Document, Metric, OutputType, SuiteError, Task, choose
from athanor.recipe.schema.choices import Suite

BYTE_METRICS = (Metric("bits_per_byte", higher_is_better=False), Metric("byte_perplexity", higher_is_better=False))
WORD_METRIC = Metric("word_perplexity", higher_is_better=False)
# Bytes a word, with its space. Beyond it (SMILES, proteins) words mean nothing, and exp of a word's loss may overflow.
LONGEST_MEAN_WORD = 12
BYTES_PER_POSITION = 8  # text kept of a document for each position the model has: about two or three windows


def held_out_tasks(
    documents: Mapping[str, Iterable[tuple[str, Document]]], limit: int, seed: int, max_sequence_length: int
) -> list[Task]:
    """One task a domain, `limit` documents each (0: all), from domain → (source, document).

    A document counts with its first 8 bytes a position of the model at most: one long file must not outweigh a thousand
    definitions, and the standard error over documents would mean nothing. Raises SuiteError for a domain without documents.
    """
    return [
        _task(domain, found, limit, seed, BYTES_PER_POSITION * max_sequence_length) for domain, found in sorted(documents.items())
    ]


def _task(domain: str, found: Iterable[tuple[str, Document]], limit: int, seed: int, max_bytes: int) -> Task:
    chosen = choose(((f"{source}/{document.id}", document) for source, document in found), limit, seed, lambda pair: pair[0])
    if not chosen:
        raise SuiteError(f"domain {domain} has no held-out documents; raise data.held_out_fraction or its max_bytes")
    rows = [{"id": name, "text": first_bytes(document.text, max_bytes)} for name, document in chosen]
    cut = sum(len(row["text"]) < len(document.text) for row, (_, document) in zip(rows, chosen, strict=True))
    words = sum(len(row["text"].split()) for row in rows)
    in_words = sum(len(row["text"].encode()) for row in rows) <= LONGEST_MEAN_WORD * words
    rows.sort(key=lambda row: (len(row["text"]), row["id"]))  # lm-eval batches in file order: equal lengths waste no padding
    return Task(
        suite=Suite.HELD_OUT_PERPLEXITY,
        name=f"held_out_{domain}",
        output_type=OutputType.LOGLIKELIHOOD_ROLLING,
        rows=rows,
        metrics=(*BYTE_METRICS, WORD_METRIC) if in_words else BYTE_METRICS,
        counts={"documents": len(rows), "cut": cut},
    )


def first_bytes(text: str, limit: int) -> str:
    """The longest beginning of `text` that takes at most `limit` bytes in UTF-8."""
    return text if len(text) * 4 <= limit else text.encode()[:limit].decode(errors="ignore")
