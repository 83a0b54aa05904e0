"""What is held out, and that it never reaches training."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.corpus import write_corpus
from athanor.data.documents import HELD_OUT_FILE, Document, read_documents, training_file
from athanor.data.formats.record import Record
from athanor.data.split import is_held_out, subject
from athanor.recipe.schema.recipe import Data

entities = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda t: t.strip())


@given(entities, st.text(), st.text(), st.integers(0, 2**31), st.floats(0.01, 0.5))
def test_split_same_entity_other_text_goes_the_same_way(entity: str, a: str, b: str, seed: int, fraction: float) -> None:
    one = is_held_out(Document("1", a, entity), fraction, seed)
    assert one == is_held_out(Document("2", b, f"  {entity.upper().lower()} "), fraction, seed) or (
        subject(Document("", "", entity.upper().lower())) != subject(Document("", "", entity))
    )


@given(entities, st.integers(0, 2**31), st.floats(0.01, 0.25))
def test_split_larger_fraction_keeps_what_was_held_out(entity: str, seed: int, fraction: float) -> None:
    document = Document("1", "text", entity)
    assert not is_held_out(document, fraction, seed) or is_held_out(document, fraction * 2, seed)


def test_split_many_subjects_holds_out_the_fraction() -> None:
    held_out = sum(is_held_out(Document("", str(n), ""), 0.05, 7) for n in range(20_000))
    assert 850 < held_out < 1150  # 1000 expected, 4.9 standard deviations


@pytest.mark.parametrize(("a", "b"), [("Benzene", "benzene"), ("ﬁne", "fine"), (" two  words\n", "two words"), ("é", "é")])
def test_subject_spelling_variants_are_one(a: str, b: str) -> None:
    assert subject(Document("", "", a)) == subject(Document("", "", b))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 1000), fraction=st.floats(0.05, 0.5))
def test_corpus_held_out_entity_is_trained_on_in_no_source(
    data: st.DataObject, seed: int, fraction: float, tmp_path_factory: Any, make_source: Any
) -> None:
    shared = data.draw(st.lists(entities, min_size=40, max_size=40, unique_by=lambda e: subject(Document("", "", e))))
    settings_ = Data(held_out_fraction=fraction, split_seed=seed)
    trained: set[str] = set()
    held_out: set[str] = set()
    for name in ("a", "b"):
        folder: Path = tmp_path_factory.mktemp(name)
        taken = data.draw(st.lists(st.sampled_from(shared), min_size=30, max_size=60))
        records = [Record(f"{i}", {"text": f"{name} {i}", "about": e}) for i, e in enumerate(taken)]
        source = make_source(entity="{about}", shards=2)
        try:
            write_corpus(records, source, settings_, folder, folder, lambda _: None)
        except StageError:
            assume(False)  # too few on one side: nothing to check
        for part in (training_file(0, 2), training_file(1, 2)):
            trained |= {subject(document) for document in read_documents(folder / part)}
        held_out |= {subject(document) for document in read_documents(folder / HELD_OUT_FILE)}
    assert not trained & held_out
