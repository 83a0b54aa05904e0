"""Suites are pure functions of documents and seed, keep their promises on size and leaks, and are written for lm-eval."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from athanor.evaluation.held_out import first_bytes, held_out_tasks
from athanor.evaluation.mmlu import QUESTIONS, mmlu_dev_task, questions
from athanor.evaluation.molecules import CHOICES, compounds, leaked, molecule_choice_task
from athanor.evaluation.tasks import SuiteError, Task, choose, write_task


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    entity: str = ""


def alkane(n: int) -> Doc:
    return Doc(f"id{n}", f"alkane number {n}\n{'C' * n}N", f"{'C' * n}N")


ALKANES = [alkane(n) for n in range(1, 41)]


@given(
    texts=st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=20),
    limit=st.integers(0, 25),
    seed=st.integers(0, 9),
)
def test_choose_depends_on_names_not_on_their_order(texts: list[str], limit: int, seed: int) -> None:
    chosen = choose(texts, limit, seed, str)
    assert chosen == choose(reversed(texts), limit, seed, str)
    assert len(chosen) == (min(limit, len(texts)) if limit else len(texts))
    assert chosen == choose(texts, 0, seed, str)[: len(chosen)]


@given(st.text(max_size=50), st.integers(0, 60))
def test_first_bytes_is_the_longest_prefix_that_fits(text: str, limit: int) -> None:
    prefix = first_bytes(text, limit)
    assert text.startswith(prefix)
    assert len(prefix.encode()) <= limit
    assert prefix == text or len(text[: len(prefix) + 1].encode()) > limit


def test_held_out_tasks_are_one_a_domain_limited_cut_and_in_order_of_length() -> None:
    documents = [("wiki", Doc(str(n), "é" * n)) for n in range(1, 60)]
    code, wiki = held_out_tasks({"wiki": documents, "code": [("code", Doc("0", "pass"))]}, 20, seed=1, max_sequence_length=8)
    assert (code.name, wiki.name) == ("held_out_code", "held_out_wiki")
    texts = [row["text"] for row in wiki.rows]
    assert len(texts) == 20
    assert texts == sorted(texts, key=len)
    assert len(texts[-1].encode()) == 64
    assert wiki.counts["cut"] == sum(int(row["id"].removeprefix("wiki/")) > 32 for row in wiki.rows) > 0


def test_held_out_domain_without_words_has_no_word_perplexity() -> None:
    prose, protein = held_out_tasks(
        {"protein": [("p", Doc("0", "MKT" * 100))], "prose": [("q", Doc("0", "a few words"))]}, 0, 0, 64
    )
    assert {metric.name for metric in prose.metrics} == {"bits_per_byte", "byte_perplexity", "word_perplexity"}
    assert {metric.name for metric in protein.metrics} == {"bits_per_byte", "byte_perplexity"}


def test_held_out_domain_without_documents_is_an_error() -> None:
    with pytest.raises(SuiteError, match=r"domain code has no held-out documents; raise data\.held_out_fraction"):
        held_out_tasks({"code": []}, 0, 0, 64)


def test_mmlu_has_281_well_formed_questions_and_balanced_enough_answers() -> None:
    rows = list(questions())
    assert len(rows) == QUESTIONS == len({row["id"] for row in rows})
    assert len({row["prompt"] for row in rows}) == QUESTIONS - 1  # MMLU repeats one of college_physics
    assert all(row["prompt"].count(f"\n{letter}. ") >= 1 for row in rows for letter in "ABCD")
    assert not any("think step by step" in row["prompt"] for row in rows)
    assert all(0.15 < sum(row["answer"] == i for row in rows) / QUESTIONS < 0.35 for i in range(4))


def test_mmlu_limit_samples_over_subjects() -> None:
    subjects = {str(row["id"]).split("/")[0] for row in mmlu_dev_task(60, seed=0).rows}
    assert len(subjects) > 25


def test_compounds_are_documents_that_end_with_their_entity() -> None:
    documents = [
        *ALKANES,
        Doc("reversed", "CCO\nethanol", "CCO"),
        Doc("no entity", "just text"),
        Doc("nothing before", "CCO", "CCO"),
        Doc("given away", "ethanol is CCO\nCCO", "CCO"),
        Doc("same name", "alkane number 3\nNCCC", "NCCC"),
    ]
    found = compounds(documents)
    assert [compound.id for compound in found] == [doc.id for doc in ALKANES]
    assert found[0].prompt == "alkane number 1\n"


@pytest.mark.parametrize(
    "training",
    [
        Doc("t", "something else", alkane(5).entity),
        Doc("t", f"it says {alkane(5).entity} here"),
        Doc("t", f"name\nSMILES: {alkane(5).entity}"),
        Doc("t", "IUPAC name: Alkane Number 5\nformula: C5N"),
        Doc("t", "alkane number 5\nwritten in another way"),
    ],
    ids=["entity", "word", "labelled", "labelled name", "name"],
)
def test_leaked_finds_a_compound_wherever_it_is_in_training(training: Doc) -> None:
    held_out = compounds(ALKANES)
    assert leaked(held_out, [Doc("u", "unrelated"), training]) == {alkane(5).entity}


def test_leaked_ignores_parts_of_longer_strings() -> None:
    assert leaked(compounds(ALKANES), [Doc("t", "alkane number 123\nxCCNx", "x")]) == set()


def test_molecule_choice_asks_clean_compounds_with_four_different_choices_of_similar_length() -> None:
    held_out = compounds(ALKANES)
    leaks = {alkane(5).entity, alkane(6).entity}
    task = molecule_choice_task(held_out, leaks, limit=0, seed=3)
    assert len(task.rows) == len(held_out) - 2 == task.counts["questions"]
    assert task.counts["leaked"] == 2
    for row in task.rows:
        right = row["choices"][row["answer"]]
        assert row["prompt"] + right in {doc.text for doc in ALKANES}
        assert len(set(row["choices"])) == CHOICES
        assert not leaks & set(row["choices"])
        assert max(abs(len(choice) - len(right)) for choice in row["choices"]) <= 26
    assert {row["answer"] for row in task.rows} == set(range(CHOICES))
    assert task == molecule_choice_task(held_out, leaks, limit=0, seed=3)
    assert task != molecule_choice_task(held_out, leaks, limit=0, seed=4)


def test_molecule_choice_without_compounds_is_an_error_with_the_way_out() -> None:
    with pytest.raises(SuiteError, match="add a source of domain molecules"):
        molecule_choice_task(compounds(ALKANES[:5]), {alkane(1).entity, alkane(2).entity}, limit=0, seed=0)


def test_write_task_is_yaml_and_json_lines_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    task: Task = molecule_choice_task(compounds(ALKANES), set(), limit=10, seed=0)
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_task(task, folder)
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert first.keys() == {"molecule_choice.yaml", "molecule_choice.jsonl", "local_data.py"}
    rows = [json.loads(line) for line in first["molecule_choice.jsonl"].decode().split("\n") if line]
    assert rows == list(task.rows)
    config = yaml.safe_load(first["molecule_choice.yaml"].decode().replace("!function ", ""))
    assert config["custom_dataset"] == "local_data.load"
    assert config["dataset_kwargs"] == {"file": "molecule_choice.jsonl"}
