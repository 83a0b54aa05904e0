"""Which answers are right: by the record, and by the verifiers of the generators that problems come from."""

import json
import os
import subprocess
import sys
from decimal import getcontext, localcontext
from typing import Any

import pytest

from athanor.data.sources.reasoning_gym_problems import ENTRY, installed_version, read_problems
from athanor.recipe.generators import SOUND, UNSOUND
from athanor.recipe.schema.choices import SourceKind
from athanor.recipe.schema.recipe import Source
from athanor.rewards.verifiers import Judge

PROBLEMS = 4
SLOW = {"futoshiki", "zebra_puzzles"}  # seconds a problem: two are enough


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("ethanol", True),
        ("  ethanol \n", True),
        ("<think>\nTwo carbons, methanol?\n</think>\n\nethanol", True),
        ("<think>ethanol</think> methanol", False),
        ("ethanol or methanol", False),
        ("", False),
    ],
)
def test_right_is_what_the_record_says_behind_the_thoughts(text: str, right: bool) -> None:
    assert Judge().is_right(text, "ethanol") is right


def problems_of(name: str) -> list[dict[str, Any]]:
    import reasoning_gym

    count = 2 if name in SLOW else PROBLEMS
    generator = reasoning_gym.create_dataset(name, size=count, seed=11)
    with localcontext():  # decimal_arithmetic would leave its precision to every test behind it
        entries: list[dict[str, Any]] = json.loads(json.dumps([generator[i] for i in range(count)]))
    return entries


def test_every_generator_of_the_package_is_sound_or_refused_for_a_reason() -> None:
    from reasoning_gym.factory import DATASETS

    assert SOUND | UNSOUND.keys() == set(DATASETS) and not SOUND & UNSOUND.keys()


@pytest.mark.parametrize("name", sorted(SOUND))
def test_sound_verifier_takes_the_answer_on_record_alone(name: str) -> None:
    """Written down and read again, as a stage gets it. Another problem's answer may be right here, too: never all of them."""
    judge, entries = Judge(), problems_of(name)
    golds = [str(entry["answer"]) for entry in entries]
    assert all(judge.is_right(f"<think>Well.</think>\n {gold} ", gold, entry) for gold, entry in zip(golds, entries, strict=True))
    for entry, gold in zip(entries, golds, strict=True):
        assert not judge.is_right("", gold, entry)
        assert not judge.is_right("no idea at all", gold, entry)
        assert not judge.is_right(f"{gold} or banana", gold, entry)
    if len(set(golds)) == len(golds):
        others = golds[1:] + golds[:1]
        assert not all(judge.is_right(other, gold, e) for other, gold, e in zip(others, golds, entries, strict=True))


def test_answer_on_which_a_verifier_breaks_is_wrong_and_counted() -> None:
    [entry, *_] = problems_of("prime_factorization")
    judge = Judge()
    assert not judge.is_right("two times three", entry["answer"], entry)
    assert judge.broken == 1


def test_generators_and_verifiers_leave_the_precision_of_decimals_alone() -> None:
    source = Source(
        kind=SourceKind.REASONING_GYM,
        package="decimal_arithmetic",
        version=installed_version(),
        items=3,
    )
    before = getcontext().prec
    entries = [record.fields[ENTRY] for record in read_problems(source)]
    assert all(Judge().is_right(entry["answer"], entry["answer"], entry) for entry in entries)
    assert getcontext().prec == before


def test_generators_give_the_same_problems_in_another_process() -> None:
    """Whatever Python's hash seed is there."""
    code = (
        "from tests.rewards.test_verifiers import *\nfor name in ('gcd', 'zebra_puzzles', 'syllogism'): print(problems_of(name))"
    )
    run = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert run[0].returncode == 0, run[0].stderr
    assert run[0].stdout and run[0].stdout == run[1].stdout
