"""From records to shards: the same bytes whatever the order, fair caps, honest counts."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.corpus import Corpus, write_corpus
from athanor.data.documents import HELD_OUT_FILE, Document, JsonlWriter, documents_file, read_documents
from athanor.data.formats.record import Record
from athanor.data.ordering import shuffled
from athanor.recipe.schema.recipe import Data, Source

MakeSource = Callable[..., Source]
SETTINGS = Data(held_out_fraction=0.1, split_seed=5)


def numbered(count: int) -> list[Record]:
    return [Record(f"r{n}", {"text": f"document number {n:05d}"}) for n in range(count)]


def write(records: list[Record], source: Source, folder: Path, data: Data = SETTINGS) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    return write_corpus(records, source, data, folder, folder, lambda _: None)


def contents(folder: Path, corpus: Corpus) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in corpus.files}


def texts(folder: Path, corpus: Corpus) -> list[str]:
    return [document.text for name in corpus.files for document in read_documents(folder / name)]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False))
def test_corpus_records_in_another_order_gives_the_same_bytes(
    order: random.Random, tmp_path_factory: pytest.TempPathFactory, make_source: MakeSource
) -> None:
    records, source = numbered(200), make_source(shards=3, max_bytes=2500)
    mixed = order.sample(records, len(records))
    a, b = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    assert contents(a, write(records, source, a)) == contents(b, write(mixed, source, b))


def test_corpus_training_documents_are_dealt_to_shards_in_turn(tmp_path: Path, make_source: MakeSource) -> None:
    one, three = (
        write(numbered(100), make_source(), tmp_path / "1"),
        write(numbered(100), make_source(shards=3), tmp_path / "3"),
    )
    whole = list(read_documents(tmp_path / "1" / one.files[0]))
    for shard in range(3):
        assert list(read_documents(tmp_path / "3" / documents_file(str(shard), 3))) == whole[shard::3]
    assert list(read_documents(tmp_path / "3" / three.files[-1])) == list(read_documents(tmp_path / "1" / HELD_OUT_FILE))


def test_corpus_cap_takes_a_prefix_of_the_shuffle_not_of_the_file(tmp_path: Path, make_source: MakeSource) -> None:
    all_of_it, part = (
        write(numbered(400), make_source(), tmp_path / "all"),
        write(numbered(400), make_source(max_bytes=2100), tmp_path / "cap"),
    )
    assert part.documents + part.held_out_documents == 100  # 21 bytes each
    assert part.beyond_cap == 300
    assert texts(tmp_path / "all", all_of_it)[: part.documents] == texts(tmp_path / "cap", part)[: part.documents]
    numbers = sorted(int(text[-5:]) for text in texts(tmp_path / "cap", part))
    assert numbers[50] == pytest.approx(200, abs=60)  # the middle of the file, not its beginning


def test_corpus_another_split_seed_gives_another_order_and_split(tmp_path: Path, make_source: MakeSource) -> None:
    other = Data(held_out_fraction=0.1, split_seed=6)
    a, b = (
        write(numbered(100), make_source(), tmp_path / "a"),
        write(numbered(100), make_source(), tmp_path / "b", other),
    )
    assert texts(tmp_path / "a", a) != texts(tmp_path / "b", b)
    assert sorted(texts(tmp_path / "a", a)) == sorted(texts(tmp_path / "b", b))


def test_corpus_counts_what_it_leaves_out(tmp_path: Path, make_source: MakeSource) -> None:
    records = [
        *numbered(50),
        Record("again", {"text": "document number 00007"}),
        Record("blank", {"text": "  \n"}),
        Record("absent", {"other": "x"}),
        Record("bytes", {"text": b"caf\xe9".decode("utf-8", "surrogateescape")}),
        Record("escape", {"text": "\ud83d"}),
    ]
    corpus = write(records, make_source(), tmp_path)
    assert corpus.documents + corpus.held_out_documents == 50
    assert (corpus.records, corpus.duplicates, corpus.missing_field, corpus.undecodable) == (55, 1, 2, 2)
    assert corpus.bytes + corpus.held_out_bytes == 50 * 21
    assert corpus.beyond_cap == 0


def test_corpus_of_equal_texts_the_smallest_id_stays(tmp_path: Path, make_source: MakeSource) -> None:
    records = [*numbered(40), Record("a0", {"text": "document number 00003"})]
    corpus = write(records, make_source(), tmp_path)
    found = {d.text: d.id for name in corpus.files for d in read_documents(tmp_path / name)}
    assert found["document number 00003"] == "a0"


def test_corpus_without_documents_says_why(tmp_path: Path, make_source: MakeSource) -> None:
    with pytest.raises(StageError, match=r"0 documents to train on.*20 lack a field of template '\{title\}'"):
        write(numbered(20), make_source(template="{title}", path="x.jsonl"), tmp_path)
    assert not list(tmp_path.glob("*.gz*"))


def test_shuffled_through_sorted_files_equals_in_memory(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", f"text {n % 150} é", "") for n in range(400)]
    at_once = list(shuffled(documents, 1, tmp_path))
    in_pieces = list(shuffled(reversed(documents), 1, tmp_path, run_bytes=300))
    assert [(d.text, again) for d, again in in_pieces] == [(d.text, again) for d, again in at_once]
    assert sum(again for _, again in at_once) == 250
    assert [d for d, again in in_pieces if not again] == [d for d, again in at_once if not again]
    assert not list(tmp_path.iterdir())


def test_document_writer_failing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with JsonlWriter(path) as writer:
        writer.write(Document("1", "é\n\u2028", ""))
    with pytest.raises(RuntimeError), JsonlWriter(path) as writer:
        writer.write(Document("2", "b", ""))
        raise RuntimeError
    assert list(read_documents(path)) == [Document("1", "é\n\u2028", "")]
    assert list(tmp_path.iterdir()) == [path]
