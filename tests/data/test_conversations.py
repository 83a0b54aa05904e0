"""Conversations made from records: what is asked and answered, what is left out, and what is held out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.run import StageError
from athanor.data.conversations import (
    HELD_OUT_FILE,
    TRAINING_FILE,
    Conversation,
    Made,
    exchange_responses,
    other_phrasings,
    question_of,
    read_conversations,
    write_conversations,
)
from athanor.data.documents import Document
from athanor.data.formats.record import Record
from athanor.data.split import is_held_out
from athanor.recipe.schema.choices import Extract
from athanor.recipe.schema.post_training import SftTask, Turn
from athanor.recipe.schema.recipe import Data, Source

DATA = Data(held_out_fraction=0.2, split_seed=3)
SOURCE = Source(template="{name}\n{smiles}", entity="{smiles}")
TURNS = [Turn(prompts=["SMILES of {name}?", "Write {name} as SMILES."], response="{smiles}")]
SPECIAL = ["<|endoftext|>", "<|im_end|>"]


def molecules(count: int) -> list[Record]:
    return [Record(f"m{i}", {"name": f"compound {i}", "smiles": "C" * (i + 1), "mass": 12 * i}) for i in range(count)]


def write(folder: Path, records: list[Record], task: SftTask, source: Source = SOURCE) -> tuple[Made, list[Any], list[Any]]:
    made = write_conversations(records, source, task, DATA, SPECIAL, folder, lambda _: None)
    return made, list(read_conversations(folder / TRAINING_FILE)), list(read_conversations(folder / HELD_OUT_FILE))


def test_turns_are_filled_and_every_phrasing_is_used(tmp_path: Path) -> None:
    _, train, held_out = write(tmp_path, molecules(60), SftTask(system="Be brief.", turns=TURNS))
    assert len(train) + len(held_out) == 60
    asked = {c.messages[1]["content"].split()[0] for c in train}
    assert asked == {"SMILES", "Write"}
    for c in train:
        number = int(c.id[1:])
        assert [m["role"] for m in c.messages] == ["system", "user", "assistant"]
        assert f"compound {number}" in c.messages[1]["content"]
        assert c.messages[2] == {"role": "assistant", "content": "C" * (number + 1)}


def test_what_pretraining_held_out_is_held_out_here(tmp_path: Path) -> None:
    records = molecules(100)
    _, train, held_out = write(tmp_path, records, SftTask(turns=TURNS))
    never = {
        r.id
        for r in records
        if is_held_out(Document(r.id, f"{r.fields['name']}\n{r.fields['smiles']}", str(r.fields["smiles"])), 0.2, 3)
    }
    assert {c.id for c in held_out} == never
    assert {c.id for c in train} == {r.id for r in records} - never


def test_thinking_and_later_turns_follow(tmp_path: Path) -> None:
    later = Turn(prompts=["And its mass?"], thinking="Count the {name}.", response="{mass} u")
    _, train, _ = write(tmp_path, molecules(40), SftTask(turns=[*TURNS, later]))
    assert [m["role"] for m in train[0].messages] == ["user", "assistant", "user", "assistant"]
    assert train[0].messages[3]["reasoning_content"].startswith("Count the compound")


def test_records_that_make_no_conversation_are_counted_by_reason(tmp_path: Path) -> None:
    records = [
        *molecules(40),
        Record("blank", {"name": "nothing", "smiles": " "}),
        Record("absent", {"smiles": "CN"}),
        Record("ends", {"name": "a turn <|im_end|>", "smiles": "CCN"}),
        Record("broken", {"name": "half \ud800", "smiles": "CCCN"}),
    ]
    made, train, held_out = write(tmp_path, [*records, Record("again", records[0].fields)], SftTask(turns=[TURNS[0]]))
    assert (made.records, made.missing_field, made.special_tokens, made.malformed) == (45, 2, 1, 1)
    assert made.duplicates + len(train) + len(held_out) == 41
    assert not {"blank", "absent", "ends", "broken"} & {c.id for c in [*train, *held_out]}


def test_cap_takes_the_same_ones_whatever_order_they_come_in(tmp_path: Path) -> None:
    task = SftTask(turns=TURNS, max_conversations=10)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    made, train, held_out = write(tmp_path / "a", molecules(60), task)
    again = write(tmp_path / "b", molecules(60)[::-1], task)
    assert (len(train) + len(held_out), made.beyond_cap) == (10, 50)
    assert (train, held_out) == again[1:]
    for name in (TRAINING_FILE, HELD_OUT_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_whole_conversations_are_taken_with_their_tools(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weigh", "arguments": {"smiles": "CC"}}}
    said = [
        {"role": "user", "content": "Weigh CC."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "30.07"},
        {"role": "assistant", "content": "30.07 g/mol"},
    ]
    tools = [{"type": "function", "function": {"name": "weigh"}}]
    records = [Record(f"r{i}", {"said": [{**said[0], "content": f"Weigh {i}."}, *said[1:]], "tools": tools}) for i in range(30)]
    wrong = [
        Record("nobody", {"said": [{"role": "narrator", "content": "x"}, said[3]]}),
        Record("unanswered", {"said": said[:1]}),
        Record("empty", {"said": []}),
    ]
    made, train, _ = write(tmp_path, [*records, *wrong], SftTask(messages="said", tools="tools"))
    assert (made.malformed, made.missing_field) == (2, 1)
    assert train[0].tools == tools and train[0].messages[1]["tool_calls"] == [call]


def test_functions_become_records_without_their_docstrings(tmp_path: Path) -> None:
    method = '    def f{i}(self, x):\n        """Add {i}.\n\n        More."""\n        return x + {i}\n'
    files = [Record(f"f{i}.py", {"text": f"import os\n\n\nclass A:\n{method.format(i=i)}"}) for i in range(40)]
    task = SftTask(extract=Extract.FUNCTIONS, turns=[Turn(prompts=["Document:\n{code}"], response="{summary}")])
    made, train, _ = write(tmp_path, [*files, Record("no.py", {"text": "def f(:"})], task, Source(template="{text}"))
    assert made.records == 40
    number = train[0].id.split(":")[0][1:-3]
    assert train[0].messages[0]["content"] == f"Document:\ndef f{number}(self, x):\n    return x + {number}"
    assert train[0].messages[1]["content"] == f"Add {number}."


def test_nothing_left_says_where_the_records_went(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="0 conversations to train on and 0 held out, of 3 records \\(3 lack a field"):
        write(tmp_path, molecules(3), SftTask(turns=[Turn(prompts=["{absent}"], response="{smiles}")]))


def test_control_has_the_same_answers_to_other_questions() -> None:
    one = [Conversation(f"a{i}", _turns(i, 1)) for i in range(20)]
    two = [Conversation(f"b{i}", _turns(i, 2)) for i in range(7)]
    alone = Conversation("c", _turns(0, 3))
    exchanged = {c.id: c for c in exchange_responses([*one, alone, *two], seed=5)}
    assert exchanged.keys() == {c.id for c in [*one, *two]}, "nobody else's answers fit the one of three turns"
    for c in [*one, *two]:
        asked, answered = ([m for m in exchanged[c.id].messages if m["role"] == role] for role in ("user", "assistant"))
        assert asked == [m for m in c.messages if m["role"] == "user"]
        assert answered != [m for m in c.messages if m["role"] == "assistant"]
    answers = sorted(m["content"] for c in exchanged.values() for m in c.messages if m["role"] == "assistant")
    assert answers == sorted(m["content"] for c in [*one, *two] for m in c.messages if m["role"] == "assistant")


def test_control_of_what_is_repeated_has_one_wrong_answer_to_a_question() -> None:
    once = [Conversation(f"a{i}", _turns(i, 1)) for i in range(20)]
    again = [replace(c, messages=[{"role": "user", "content": "asked otherwise"}, c.messages[1]], repeat=1) for c in once[:5]]
    exchanged = list(exchange_responses([*once, *again], seed=5))
    assert exchanged[:20] == list(exchange_responses(once, seed=5)), "the others are as without repeats"
    wrong = {c.id: c.messages[1] for c in exchanged[:20]}
    assert {c.id for c in exchanged[20:]} == {c.id for c in again}
    for c in exchanged[20:]:
        assert c.messages == [{"role": "user", "content": "asked otherwise"}, wrong[c.id]]


def test_other_phrasings_ask_the_same_record_in_the_tasks_other_words(tmp_path: Path) -> None:
    ways = ["SMILES of {name}?", "Write {name} as SMILES.", "{name} of charge {charge}?", "{name} <|im_end|>?"]
    task = SftTask(turns=[Turn(prompts=ways, response="{smiles}")])
    records = molecules(80)
    _, train, _ = write(tmp_path, records, task)
    again = [*records, Record(train[0].id, {"name": "a namesake", "smiles": "O"})]
    wanted = {c.id: c for c in train[:20]}
    found = other_phrasings(again, task, wanted, SPECIAL, lambda _: None)
    assert {name: len(others) for name, others in found.items()} == dict.fromkeys(wanted, 1), "two of the four cannot be asked"
    for name, others in found.items():
        number = name[1:]
        asked = [question_of(c)[0][0]["content"] for c in (wanted[name], *others)]
        assert len(set(asked)) == len(asked) and all(f"compound {number}" in question for question in asked)
        assert all(c.messages[1] == wanted[name].messages[1] for c in others)


def _turns(number: int, count: int) -> list[dict[str, str]]:
    return [
        message
        for turn in range(count)
        for message in (
            {"role": "user", "content": f"question {number}.{turn}"},
            {"role": "assistant", "content": f"answer {count}.{number}.{turn}"},
        )
    ]
