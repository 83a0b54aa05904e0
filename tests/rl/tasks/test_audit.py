"""A broken verifier of each kind is caught, and a sound one is not."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from athanor.cli import main
from athanor.rewards.sandbox.box import Sandbox
from athanor.rewards.sandbox.isolation import find_isolation
from athanor.rl.tasks import bootcamp, gym
from athanor.rl.tasks.audit import Audit, audit_by_name
from athanor.rl.tasks.shapes import LONGEST, SHAPES, fits
from athanor.rl.tasks.verifying import Verdict, Verifier
from tests.rewards.sandbox.walls import needs_walls

CAMPS = Path(__file__).with_name("camps.py")
pytestmark = needs_walls


@pytest.fixture(scope="module")
def camps() -> Iterator[Sandbox]:
    with Sandbox([bootcamp.__name__], find_isolation(CAMPS)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def gyms() -> Iterator[Sandbox]:
    with Sandbox([gym.__name__, "reasoning_gym"]) as sandbox:
        yield sandbox


def audit(camp: str) -> Audit:
    return audit_by_name(f"{CAMPS}:{camp}")


def test_sound_task_is_found_so_level_by_level() -> None:
    found = audit("Sound")
    assert not found.quarantine and not found.defects and not found.refused
    assert (found.gold, found.same, found.distinct) == (1.0, True, 1.0)
    assert [task.difficulty for task in found.tasks] == [0.0, 0.25, 0.5, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("camp", "reason"),
    [
        ("TakesAnything", "calls blanks right (100%)"),
        ("TakesWhatIsNotEmpty", "calls what is garbled right (100%)"),
        ("TakesHedges", "calls a hedge right (100%)"),
        ("TakesItsQuestion", "calls its own question right (100%)"),
        ("TakesInstructions", "calls an instruction to the judge right (100%)"),
        ("TakesNumbers", "calls another's answer right (100%)"),
        ("RunsAnswers", "runs what a model wrote"),
        ("HasNoAnswer", "calls 0% of the answers on record right"),
        ("IsWrongItself", "calls 0% of the answers on record right"),
        ("IsAnotherEveryTime", "makes other problems of the same seed"),
        ("MakesNothing", "makes no problem: RuntimeError: out of ideas"),
    ],
)
def test_broken_one_is_quarantined_with_the_evidence(camp: str, reason: str) -> None:
    found = audit(camp)
    assert reason in found.quarantine or any(reason in one for one in found.defects) and found.quarantine
    assert not found.tasks


def test_question_that_is_always_the_same_is_no_task() -> None:
    found = audit("AsksTheSame")
    assert not found.tasks and found.refused == {"a question is asked twice": 6}


def test_what_is_contained_is_told_and_does_not_quarantine() -> None:
    away, prose = audit("IsNeverDone"), audit("RaisesOnProse")
    assert not away.quarantine and "has no verdict in time" in away.defects[0]
    assert not prose.quarantine and prose.defects == ["raises ValueError"]


def test_answer_that_harms_its_verifier_is_wrong_and_the_others_are_judged(camps: Sandbox) -> None:
    camp = f"{CAMPS}:KillsItsWorker"
    entries = camps.call(bootcamp.__name__, "generate", camp, {"terms": 0, "largest": 0}, 1, 3, seconds=5.0).value
    verifier = Verifier(camps)
    answers = [entries[0]["answer"], "kill", entries[2]["answer"]]
    verdicts = verifier.judge(bootcamp.__name__, camp, answers, entries)
    assert verdicts == [Verdict(True), Verdict(False, "it took the sandbox down"), Verdict(True)]
    assert verifier.troubles == {"it took the sandbox down": 1}


@pytest.mark.parametrize("forged", ["5", "[1]", "[true, 1.0]", '"yes"', "{}", "[1.0, 1.0, 1.0]", "[[]]", "[Infinity]"])
def test_forged_reply_that_is_none_is_no_verdict(camps: Sandbox, forged: str) -> None:
    """One of the right form cannot be told from the verifier's own: programs are to be kept from it by its shape."""
    camp = f"{CAMPS}:IsAnsweredFor"
    entries = camps.call(bootcamp.__name__, "generate", camp, {"terms": 0, "largest": 0}, 1, 2, seconds=5.0).value
    for reply in (f'{{"value": {forged}}}', f'{{"error": {forged}}}', f'{{"ended": {forged}, "value": [1.0, 1.0]}}'):
        verdicts = Verifier(camps).judge(bootcamp.__name__, camp, [reply, entries[1]["answer"]], entries)
        assert [verdict.right for verdict in verdicts] == [False, True]


def test_answers_of_another_shape_never_reach_the_verifier(gyms: Sandbox) -> None:
    [entry] = gyms.call(gym.__name__, "generate", "countdown", {}, 1, 1, seconds=10.0).value
    hostile = ["__import__('os')._exit(77)", "9**9**9", "7//2", f"{entry['answer']} or 1", "", "1" * (LONGEST + 1)]
    assert not any(fits("countdown", answer) for answer in hostile)
    verifier = Verifier(gyms)
    verdicts = verifier.judge(gym.__name__, "countdown", [entry["answer"], *hostile], [entry] * 7)
    assert [verdict.right for verdict in verdicts] == [True] + 6 * [False] and not verifier.troubles


def test_shapes_are_quick_on_what_is_long() -> None:
    began = time.process_time()
    for generator in SHAPES:
        for text in ("1" * (LONGEST - 1) + "x", "1," * (LONGEST // 2 - 1) + "x", "A is a b, " * (LONGEST // 10) + "!"):
            fits(generator, text[:LONGEST])
    assert time.process_time() - began < 10, "each takes a thousandth of a second; what backtracks takes a minute"


@pytest.mark.parametrize("generator", sorted(SHAPES))
def test_shape_lets_the_answers_on_record_through(gyms: Sandbox, generator: str) -> None:
    made = gyms.call(gym.__name__, "generate", generator, {}, 3, 5, seconds=60.0)
    assert made.came, made
    verdicts = Verifier(gyms).judge(gym.__name__, generator, [str(entry["answer"]) for entry in made.value], made.value)
    kept = [verdict for verdict, entry in zip(verdicts, made.value, strict=True) if "Integral(" not in entry["answer"]]
    assert kept and all(verdict.right for verdict in kept)  # an integral that is not solved is no answer
    assert not any(fits(generator, f"{entry['answer']} or banana") for entry in made.value)


@pytest.mark.parametrize(
    ("generator", "defect"),
    [
        ("game_of_life_halting", "calls what is garbled right"),
        ("puzzle24", "calls another's answer right"),
        ("coin_flip", "calls a zero right"),
        ("rush_hour", "calls 0% of the answers on record right"),
    ],
)
def test_known_defects_of_reasoning_gym_are_found(generator: str, defect: str) -> None:
    assert any(defect in reason for reason in audit_by_name(generator).quarantine)


def test_integral_on_record_that_is_not_solved_is_a_defect() -> None:
    found = audit_by_name("intermediate_integration")
    assert 0.5 < found.gold < 1 and not found.quarantine and found.refused["an answer on record is wrong"] >= 1
    assert any("of the answers on record right" in defect for defect in found.defects)


def test_command_writes_a_task_to_start_from_and_audits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["task", "new", "long_sums.py"]) == 0
    assert main(["task", "new", "long_sums.py"]) == 1 and "is there already" in capsys.readouterr().err
    assert main(["task", "audit", "long_sums.py:LongSums", "--json", "found.json"]) == 0
    assert "12 tasks of 1 generators" in capsys.readouterr().out
    [found] = json.loads(Path("found.json").read_text())
    assert found["quarantine"] == [] and len(found["tasks"]) == 12


def test_command_names_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "audit", "gcdd", "nowhere.py:Sums"]) == 1
    assert "no such generator: gcdd, nowhere.py:Sums" in capsys.readouterr().err
