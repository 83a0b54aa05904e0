"""Problems of sound tasks: which are made, which are held out, and that what is written down can be judged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athanor.recipe.generators import UNSOUND
from athanor.rewards.sandbox.box import Sandbox
from athanor.rl.tasks import bootcamp, gym, programs, science
from athanor.rl.tasks.audit import audit_generator
from athanor.rl.tasks.generator import find_generator, is_file_and_class, sandbox_of
from athanor.rl.tasks.problems import MOST_DRAWN, Made, Problem, distinct, entry_of, hold_out, make_problems, mixed, read_entry
from athanor.rl.tasks.task import Task
from athanor.rl.tasks.verifying import Verifier
from tests.rewards.sandbox.walls import needs_walls

CAMPS = Path(__file__).with_name("camps.py")
SUMS, GCD, MASS = find_generator("chain_sum"), find_generator("gcd"), find_generator("molar_mass")
EASY, SOME = Task("chain_sum", (("num_terms", 0), ("num_digits", 0))), Task("gcd", (("num_terms", 1), ("value", 0)))


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with sandbox_of([SUMS, GCD, MASS]) as sandbox:
        yield sandbox


def a_problem(question: str, name: str = "some#0") -> Problem:
    return Problem(name, "some", "some", gym.__name__, question, "1", {})


def test_problem_follows_from_generator_levels_seed_and_number(box: Sandbox) -> None:
    made = make_problems(box, GCD, SOME, 5, 7, set())
    assert [problem.id for problem in made.problems] == [f"gcd(num_terms=1,value=0)#{number}" for number in range(5)]
    for number, problem in enumerate(made.problems):
        alone = box.call(gym.__name__, "generate", "gcd", dict(SOME.levels), 7, 1, number, seconds=5.0).value
        assert alone == [problem.entry] and problem.question == problem.entry["question"]
        assert (problem.task, problem.generator, problem.module) == (SOME.name, "gcd", gym.__name__)
    assert make_problems(box, GCD, SOME, 5, 7, set()) == made != make_problems(box, GCD, SOME, 5, 8, set())


@pytest.mark.parametrize(("generator", "module"), [("molar_mass", science), ("list_program", programs)])
def test_our_own_problems_are_drawn_from_any_number_on(generator: str, module: Any) -> None:
    assert module.generate(generator, {}, 3, 6)[4:] == module.generate(generator, {}, 3, 2, 4)


def test_own_problems_are_drawn_from_any_number_on() -> None:
    camp = f"{CAMPS}:Sound"
    levels = {"terms": 1, "largest": 1}
    assert bootcamp.generate(camp, levels, 3, 6)[4:] == bootcamp.generate(camp, levels, 3, 2, 4)


def test_no_question_is_asked_twice_in_one_task_or_two(box: Sandbox) -> None:
    asked: set[str] = set()
    made = [make_problems(box, SUMS, EASY, 30, seed, asked) for seed in (7, 8)]
    questions = [problem.question for one in made for problem in one.problems]
    assert len(questions) == len(set(questions)) == len(asked) == 60
    assert made[1].asked_before >= 29, "of a neighbouring seed all but one of the first are the same"


def test_task_of_few_different_problems_gives_those_and_counts_the_rest() -> None:
    camp = find_generator(f"{CAMPS}:AsksTheSame")
    with sandbox_of([camp]) as sandbox:
        made = make_problems(sandbox, camp, Task(camp.name, (("terms", 0), ("largest", 0))), 8, 1, set())
    assert len(made.problems) == 1 and made.asked_before == MOST_DRAWN * 8 - 1 and not made.trouble


def test_problem_whose_answer_on_record_is_wrong_is_not_taken() -> None:
    camp = find_generator(f"{CAMPS}:ErrsNowAndThen")
    with sandbox_of([camp]) as sandbox:
        made = make_problems(sandbox, camp, Task(camp.name, (("terms", 2), ("largest", 1))), 12, 1, set())
    assert len(made.problems) == 12 and made.wrong > 0
    assert all(int(problem.answer) % 3 for problem in made.problems)


def test_task_that_makes_nothing_says_why() -> None:
    camp = find_generator(f"{CAMPS}:MakesNothing")
    with sandbox_of([camp]) as sandbox:
        made = make_problems(sandbox, camp, Task(camp.name, (("terms", 0), ("largest", 0))), 4, 1, set())
    assert not made.problems and (made.unmade, made.trouble) == (8, "RuntimeError: out of ideas")


def test_problem_that_cannot_be_made_costs_no_other() -> None:
    """Some of reasoning-gym's give up on one number in a hundred."""
    camp = find_generator(f"{CAMPS}:GivesUpNowAndThen")
    with sandbox_of([camp]) as sandbox:
        made = make_problems(sandbox, camp, Task(camp.name, (("terms", 2), ("largest", 1))), 24, 1, set())
    assert len(made.problems) == 24 and made.unmade > 0 and made.trouble == "RuntimeError: out of ideas"


def test_question_of_two_generators_is_the_first_ones() -> None:
    first, second = Made("a", [a_problem("1 + 1?"), a_problem("1 + 2?")]), Made("b", [a_problem("1 +\n1?"), a_problem("2 + 2?")])
    left = list(distinct([first, second], set()))
    assert [[problem.question for problem in made.problems] for made in left] == [["1 + 1?", "1 + 2?"], ["2 + 2?"]]
    assert [made.asked_before for made in left] == [0, 1] and len(second.problems) == 2


QUESTIONS = st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=30, unique_by=lambda text: " ".join(text.split()))


@given(QUESTIONS, st.floats(0.01, 0.5))
def test_some_of_a_task_are_held_out_and_some_are_not(questions: list[str], share: float) -> None:
    problems = [a_problem(question, f"some#{number}") for number, question in enumerate(questions)]
    aside = hold_out(problems, share)
    assert 1 <= len(aside) < len(problems) and aside < {problem.id for problem in problems}
    assert hold_out(problems[::-1], share) == aside


def test_problem_is_held_out_whatever_its_number_seed_and_task() -> None:
    ones = [a_problem(f"{number} + {number}?", f"a#{number}") for number in range(400)]
    others = [a_problem(f"{number}  + {number}?", f"b#{400 - number}") for number in range(200, 400)]
    aside, again = hold_out(ones, 0.25), hold_out(others, 0.25)
    assert {int(name[2:]) for name in aside if int(name[2:]) >= 200} == {400 - int(name[2:]) for name in again}
    assert 70 <= len(aside) <= 130, "a quarter of 400, five deviations around"


def test_task_of_one_problem_is_not_divided() -> None:
    with pytest.raises(ValueError, match="1 problems cannot be divided; 2 can"):
        hold_out([a_problem("1 + 1?")], 0.125)


def test_first_of_a_file_are_of_all_generators() -> None:
    order = mixed(a_problem("?", f"{name}#{number}") for name in "abcd" for number in range(50))
    assert {problem.id[0] for problem in order[:20]} == set("abcd")


def test_entry_that_was_written_down_is_read_back_and_judged(box: Sandbox) -> None:
    for generator, task in ((GCD, SOME), (MASS, Task("molar_mass", (("elements", 1),)))):
        problems = make_problems(box, generator, task, 6, 5, set()).problems
        recorded = [read_entry(json.loads(json.dumps(entry_of(problem)))) for problem in problems]
        assert {one.task for one in recorded if one} == {task.name}
        assert {one.generator for one in recorded if one} == {generator}
        entries = [one.problem for one in recorded if one]
        where, golds = (generator.module, generator.address), [problem.answer for problem in problems]
        assert all(verdict.right for verdict in Verifier(box).judge(*where, golds, entries))
        others = [f"{float(gold) + 1}" for gold in golds]
        assert not any(verdict.right for verdict in Verifier(box).judge(*where, others, entries))


def test_entry_of_ones_own_is_found_below_the_folder_it_was_named_in() -> None:
    problem = Problem("camps.py:Sound#0", "camps.py:Sound", "camps.py:Sound", bootcamp.__name__, "?", "1", {"case": {}})
    recorded = read_entry(entry_of(problem), CAMPS.parent)
    assert recorded is not None and (recorded.generator.name, recorded.generator.file) == ("camps.py:Sound", CAMPS)
    assert recorded.generator.address == f"{CAMPS}:Sound"
    assert is_file_and_class("camps.py:Sound", CAMPS.parent) and not is_file_and_class("camps.py:", CAMPS.parent)


def test_other_entries_are_none_of_the_registrys() -> None:
    assert read_entry({}) is None
    assert read_entry({"question": "?", "answer": "1", "metadata": {"source_dataset": "gcd"}}) is None
    with pytest.raises(ValueError, match="no module os makes problems"):
        read_entry({"module": "os", "generator": "x", "task": "x", "problem": {}})


@needs_walls
@pytest.mark.parametrize("name", ["spiral_matrix", "string_insertion", "simple_equations", "gcd"])
def test_generators_that_need_walls_are_those_that_an_audit_finds(name: str) -> None:
    generator = find_generator(name)
    with sandbox_of([generator]) as sandbox:
        assert audit_generator(sandbox, generator, most_tasks=1).runs_answers is bool(generator.needs_walls)


def test_programs_and_ones_own_need_walls() -> None:
    assert all(find_generator(name).needs_walls for name in (*programs.KINDS, f"{CAMPS}:Sound"))
    assert not any(find_generator(name).needs_walls for name in science.KINDS)
    said = {name for name, reason in UNSOUND.items() if reason == "its verifier runs what a model wrote as a program"}
    assert said == gym.RUNS_ANSWERS, "recipes keep the same list for sources"
