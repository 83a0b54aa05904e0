"""A round on disk, how its answers fall to steps, and the ledger by which each is learnt from once."""

from dataclasses import replace
from pathlib import Path

import pytest

from athanor.artifacts.run import StageError
from athanor.rl.online.rounds import (
    Answered,
    Ledger,
    Made,
    arrange,
    path_of,
    read_ledger,
    read_round,
    settle_accounts,
    write_round,
)


def answer(slot: int, number: int, advantage: float | None) -> Answered:
    who = ("sums/7", "sums", "sums", "verifier")
    return Answered(slot, number, *who, (5, 3), (-0.5, -0.1), "stop", "7 \udce9", 1.0, True, "", advantage, (-0.5, -0.1))


def made(number: int = 0, kept: int = 3) -> Made:
    answers = tuple(answer(slot, n, 1.0 if slot < kept else None) for slot in range(4) for n in range(4))
    watched = ({"prompt": "sums/9", "text": "8", "finish": "stop"},)
    return Made(number, "a" * 16, 1, "b" * 16, answers, watched, {"pass_rate": 0.25}, {"sums": [0.1, 0.2, 0.3]})


def test_round_is_read_back_as_it_was_and_written_in_the_same_bytes(tmp_path: Path) -> None:
    write_round(tmp_path, made())
    first = path_of(tmp_path, 0).read_bytes()
    assert read_round(tmp_path, 0) == made() and read_round(tmp_path, 1) is None
    write_round(tmp_path, made())
    assert path_of(tmp_path, 0).read_bytes() == first
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["00000.jsonl.gz"], "nothing half written is left"


def test_each_learnt_answer_falls_to_one_step_and_steps_are_alike() -> None:
    steps = arrange(made().answers, 1, 0, 4)
    assert [len(step) for step in steps] == [4, 4, 4, 4]
    found = [one for step in steps for one in step if one is not None]
    assert sorted(one.id for one in found) == sorted(one.id for one in made().answers if one.advantage is not None)
    assert [sum(one is not None for one in step) for step in steps] == [3, 3, 3, 3]
    assert all(step[: len([x for x in step if x])] == [x for x in step if x] for step in steps), "what is learnt comes first"
    assert steps == arrange(made().answers[::-1], 1, 0, 4) != arrange(made().answers, 2, 0, 4)


def test_answers_of_a_prompt_fall_to_one_step_end_to_end() -> None:
    answers = [answer(slot, number, 1.0) for slot in range(10) for number in range(4)]
    steps = [[one.slot for one in step if one] for step in arrange(answers, 1, 0, 4)]
    assert [len(step) for step in steps] == [10] * 4
    assert all(step[:4] == [step[0]] * 4 and step[4:8] == [step[4]] * 4 for step in steps), "what fits nowhere comes last"
    even = [[one.slot for one in step if one] for step in arrange(answers[:32], 1, 0, 4)]
    assert all(step[:4] == [step[0]] * 4 and step[4:] == [step[4]] * 4 for step in even)


def test_steps_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(ValueError, match="16 answers do not cut into 3 steps"):
        arrange(made().answers, 1, 0, 3)


def ledger_of(path: Path, one: Made, steps: int = 4) -> Ledger:
    ledger = Ledger(path)
    for place, step in enumerate(arrange(one.answers, 1, one.number, steps)):
        ledger.add(one.number * steps + place + 1, one.number, [a for a in step if a], left_out=place == 0)
    return ledger


def test_accounts_of_an_undisturbed_run_come_out_even(tmp_path: Path) -> None:
    ledger_of(tmp_path / "ledger", made())
    counted = settle_accounts(read_ledger(tmp_path / "ledger"), [made()])
    assert counted == {"rounds": 1, "answers": 16, "learnt_from": 12, "steps_left_out": 1}


@pytest.mark.parametrize(("damage", "said"), [("twice", "1 answers learnt from twice, 0 lost"), ("lost", "0 .* twice, 3 lost")])
def test_answer_that_is_lost_or_learnt_from_twice_is_found(tmp_path: Path, damage: str, said: str) -> None:
    ledger_of(tmp_path / "ledger", made())
    rows = read_ledger(tmp_path / "ledger")
    rows = [{**rows[0], "answers": [*rows[0]["answers"], rows[1]["answers"][0]]}, *rows[1:]] if damage == "twice" else rows[1:]
    with pytest.raises(StageError, match=said):
        settle_accounts(rows, [made()])


def test_answer_of_no_round_is_found(tmp_path: Path) -> None:
    ledger_of(tmp_path / "ledger", made(kept=4))
    with pytest.raises(StageError, match="4 of no round"):
        settle_accounts(read_ledger(tmp_path / "ledger"), [made(kept=3)])


def test_ledger_forgets_what_is_learnt_again_and_a_line_that_a_kill_cut(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = ledger_of(path, made())
    with path.open("a") as file:
        file.write('{"step": 5, "rou')
    ledger.resume(2)
    assert [row["step"] for row in read_ledger(path)] == [1, 2]
    with pytest.raises(StageError, match="lacks steps up to 3"):
        ledger.resume(3)


def test_answer_of_several_rounds_keeps_who_drew_what(tmp_path: Path) -> None:
    long = replace(made(), answers=(replace(answer(0, 0, None), spans=((1, "a" * 16), (1, "b" * 16))),), asked=7)
    write_round(tmp_path, long)
    assert read_round(tmp_path, 0) == long


def test_trained_answer_keeps_its_floats(tmp_path: Path) -> None:
    exact = replace(answer(0, 0, 1 / 3), old=(-1e-17, -0.1234567890123456789))
    write_round(tmp_path, replace(made(), answers=(exact,)))
    found = read_round(tmp_path, 0)
    assert found is not None and found.answers == (exact,)
