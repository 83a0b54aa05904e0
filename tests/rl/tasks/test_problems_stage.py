"""Stage `problems` on a few generators: its files, a killed one that goes on, and who is left out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.run import StageError, StageRun, Stopped
from athanor.data.conversations import HELD_OUT_FILE, TRAINING_FILE, Conversation, answer_of, read_conversations
from athanor.recipe.schema.choices import DocumentFormat, SourceKind
from athanor.recipe.schema.online import Molecules, Online, Problems
from athanor.recipe.schema.recipe import Recipe, Source
from athanor.rewards.sandbox.isolation import find_isolation
from athanor.rl.judging import Judges, Said
from athanor.rl.tasks import registry
from athanor.rl.tasks.account import AUDIT_FILE, AUDIT_PAGE
from athanor.rl.tasks.generator import sandbox_of
from athanor.rl.tasks.problems import read_entry
from athanor.rl.tasks.verifying import Verifier
from athanor.stages import problems
from athanor.stages.corpus_molecules import MOLECULES_FILE
from tests.rewards.sandbox.walls import needs_walls
from tests.rl.tasks.test_molecules import chains

CAMPS = Path(__file__).with_name("camps.py")
OURS = ("half_life", "molar_mass", "dilution")  # that need no package to be imported


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one's own generators begin."""
    monkeypatch.setenv("ATHANOR_PROJECT", str(CAMPS.parent))


@pytest.fixture
def without_walls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine that has no bubblewrap."""
    monkeypatch.setenv("PATH", "/nowhere")
    find_isolation.cache_clear()
    yield
    find_isolation.cache_clear()


def a_stage(folder: Path, *generators: str, seed: int = 3, **keys: Any) -> StageRun:
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(Problems(list(generators), most_tasks=2, per_task=8), **keys)
    return StageRun(Recipe(name="t", seed=seed, online=Online(problems=settings)), "problems", "registry", "0" * 16, folder, {})


def both_files(folder: Path) -> tuple[list[Conversation], list[Conversation]]:
    return list(read_conversations(folder / TRAINING_FILE)), list(read_conversations(folder / HELD_OUT_FILE))


def audit_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["generator"]: row for row in json.loads((folder / AUDIT_FILE).read_text())["generators"]}


def test_problems_are_written_down_and_none_of_those_held_out_is_learnt(tmp_path: Path) -> None:
    outcome = problems.run(a_stage(tmp_path, "gcd", "chain_sum", "half_life"))
    assert outcome.files == (TRAINING_FILE, HELD_OUT_FILE, AUDIT_FILE, AUDIT_PAGE)
    learnt, held_out = both_files(tmp_path)
    counted = {name: outcome.counters[name] for name in ("generators", "sound", "quarantined", "left_out", "tasks", "missing")}
    assert counted == {"generators": 3, "sound": 3, "quarantined": 0, "left_out": 0, "tasks": 6, "missing": 0}
    assert (outcome.counters["problems"], outcome.counters["held_out"]) == (len(learnt), len(held_out))
    questions = [conversation.messages[0]["content"] for conversation in (*learnt, *held_out)]
    assert len(learnt) + len(held_out) == 48 == len(set(questions))
    for some in (learnt, held_out):
        tasks = {conversation.entry["task"] for conversation in some}
        assert len(tasks) == 6 and all(c.id.startswith(f"{c.entry['task']}#") for c in some)
    assert len({conversation.entry["generator"] for conversation in learnt[:12]}) == 3
    rows = audit_of(tmp_path)
    assert list(rows) == ["gcd", "chain_sum", "half_life"] and all(len(row["tasks"]) == 2 for row in rows.values())
    page = (tmp_path / AUDIT_PAGE).read_text()
    assert "3 generators" in page and all(f"<td>{name}</td>" in page for name in rows) and "http" not in page


def test_every_answer_on_record_is_right_and_another_ones_is_not(tmp_path: Path) -> None:
    problems.run(a_stage(tmp_path, "half_life"))
    conversations, _ = both_files(tmp_path)
    recorded = [one for c in conversations if (one := read_entry(c.entry, CAMPS.parent))]
    generator, entries, golds = recorded[0].generator, [one.problem for one in recorded], list(map(answer_of, conversations))
    with sandbox_of([generator]) as sandbox:
        for answers, right in ((golds, True), ([*golds[1:], golds[0]], False)):
            verdicts = Verifier(sandbox).judge(generator.module, generator.address, answers, entries)
            assert len(verdicts) == len(conversations) and all(verdict.right is right for verdict in verdicts)


def test_stopped_stage_goes_on_with_the_next_generator_and_audits_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MOST_AT_ONCE", 1)
    whole = problems.run(a_stage(tmp_path / "whole", *OURS))
    torn = a_stage(tmp_path / "torn", *OURS)
    torn._stop.set()
    with pytest.raises(Stopped, match="problems of registry after 1 of 3 generators; finished ones are kept"):
        problems.run(torn)
    kept = {path: path.stat().st_mtime_ns for path in (torn.folder / "generators").iterdir()}
    assert 1 <= len(kept) < 3
    marks: list[tuple[int, int, str]] = []
    again = a_stage(torn.folder, *OURS)
    again.heartbeat.beat = lambda *mark: marks.append(mark)  # type: ignore[method-assign]
    assert problems.run(again) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert marks == [(done, 3, "generators") for done in (1, 2, 3)]
    for name in (TRAINING_FILE, HELD_OUT_FILE):
        assert (torn.folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_generator_that_was_tried_with_other_settings_is_not_taken(tmp_path: Path) -> None:
    problems.run(a_stage(tmp_path, "half_life"))
    with pytest.raises(StageError, match=r'000-half_life.jsonl was made with .*"seed": 3.* move it away'):
        problems.run(a_stage(tmp_path, "half_life", seed=4))


def test_unknown_generators_are_all_named_before_anything_is_made(tmp_path: Path) -> None:
    stage = a_stage(tmp_path, "gcdd", "gcd", "nowhere.py:Sums", "camps.py:Sound")
    with pytest.raises(StageError, match=r"no such generator: gcdd, nowhere.py:Sums; athanor task audit names"):
        problems.run(stage)
    assert not list(tmp_path.iterdir())


@needs_walls
def test_quarantined_generator_is_left_out_with_the_evidence(tmp_path: Path) -> None:
    outcome = problems.run(a_stage(tmp_path, "camps.py:Sound", "camps.py:TakesNumbers"))
    assert (outcome.counters["sound"], outcome.counters["quarantined"]) == (1, 1)
    learnt, held_out = both_files(tmp_path)
    assert {c.entry["generator"] for c in (*learnt, *held_out)} == {"camps.py:Sound"}
    assert str(CAMPS.parent) not in learnt[0].id, "where the checkout is decides nothing"
    row = audit_of(tmp_path)["camps.py:TakesNumbers"]
    assert row["quarantine"] and row["tasks"] == []
    assert "quarantined: " in row["left_out"] and "calls another's answer right (100%)" in row["left_out"]
    assert "calls another&#x27;s answer right (100%)" in (tmp_path / AUDIT_PAGE).read_text()


@needs_walls
def test_generator_without_a_sound_task_is_left_out_too(tmp_path: Path) -> None:
    outcome = problems.run(a_stage(tmp_path, "half_life", "camps.py:AsksTheSame"))
    assert [outcome.counters[name] for name in ("generators", "sound", "quarantined", "left_out")] == [2, 1, 0, 1]
    assert audit_of(tmp_path)["camps.py:AsksTheSame"]["left_out"] == "no task is sound: a question is asked twice (6)"


@needs_walls
def test_generator_that_asks_what_an_earlier_one_asks_is_left_out(tmp_path: Path) -> None:
    problems.run(a_stage(tmp_path, "camps.py:Sound", "camps.py:RaisesOnProse", most_tasks=6))
    rows = audit_of(tmp_path)
    assert all(task["asked_before"] for task in rows["camps.py:RaisesOnProse"]["tasks"])
    questions = [c.messages[0]["content"] for some in both_files(tmp_path) for c in some]
    assert len(questions) == len(set(questions))


def test_tasks_are_no_harder_than_the_recipe_says(tmp_path: Path) -> None:
    problems.run(a_stage(tmp_path, "half_life", most_tasks=30, hardest=0.4))
    [row] = audit_of(tmp_path).values()
    assert [task["difficulty"] for task in row["tasks"]] == [0.0, pytest.approx(1 / 3)]
    assert row["refused"] == {"harder than 0.4": 2}


@needs_walls
def test_nothing_left_is_an_error_with_every_reason(tmp_path: Path) -> None:
    stage = a_stage(tmp_path, "camps.py:HasNoAnswer", "camps.py:AsksTheSame")
    reasons = r"HasNoAnswer: quarantined: calls 0% of .*AsksTheSame: no task is sound: a question is asked twice \(6\)"
    with pytest.raises(StageError, match=reasons):
        problems.run(stage)
    assert list(audit_of(tmp_path)) == ["camps.py:HasNoAnswer", "camps.py:AsksTheSame"]


@pytest.mark.usefixtures("without_walls")
def test_without_walls_nothing_runs_what_a_model_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = problems.run(a_stage(tmp_path, "half_life", "countdown", "list_program", "camps.py:Sound"))
    counted = {name: outcome.counters[name] for name in ("generators", "sound", "left_out", "walls")}
    assert counted == {"generators": 1, "sound": 1, "left_out": 3, "walls": 0}
    assert "without countdown, list_program, camps.py:Sound" in capsys.readouterr().out
    rows = audit_of(tmp_path)
    assert "its verifier runs what a model wrote" in rows["countdown"]["left_out"]
    assert "its answers are programs" in rows["list_program"]["left_out"]
    assert "bubblewrap is not installed" in (tmp_path / AUDIT_PAGE).read_text()


@needs_walls
def test_molecule_of_the_corpus_is_learnt_from_by_all_generators_or_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"smiles": one.smiles, "iupac": one.name} for one in chains()] + [{"smiles": "no molecule"}, {"iupac": "nothing"}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setenv("ATHANOR_PROJECT", str(tmp_path))
    stage = a_stage(tmp_path / "stage", "ring_count", "structure_of_name", per_task=30, held_out=0.3)
    stage.recipe.online.problems.corpus = {"rows": Molecules("{smiles}", "{iupac}")}
    stage.recipe.data.held_out_fraction = 0.2
    facts = {"path": "rows.jsonl", "licence": "CC0-1.0", "domain": "molecules", "format": DocumentFormat.JSONL}
    stage.recipe.data.sources = {"rows": Source(kind=SourceKind.LOCAL, **facts, template="{smiles}", entity="{smiles}")}
    outcome = problems.run(stage)
    assert outcome.files[-1] == MOLECULES_FILE and (stage.folder / MOLECULES_FILE).is_file()
    counted = {name: outcome.counters[f"molecules_{name}"] for name in ("records", "missing_field", "unreadable")}
    assert counted == {"records": len(rows), "missing_field": 1, "unreadable": 1}
    learnt, held_out = both_files(stage.folder)
    assert (
        {c.entry["generator"] for c in learnt} == {c.entry["generator"] for c in held_out} == {"ring_count", "structure_of_name"}
    )
    taught, kept = ({c.entry["problem"]["subject"] for c in some} for some in (learnt, held_out))
    assert not taught & kept
    assert any(c.entry["problem"]["held_out"] for c in held_out) and not any(c.entry["problem"]["held_out"] for c in learnt)
    with Judges() as judges:
        said = [Said(answer_of(c), answer_of(c), c.entry) for c in (*learnt, *held_out)]
        assert all(verdict.right for verdict in judges.judge(said)), "without the molecules' file"


@needs_walls
def test_problems_are_the_same_with_walls_and_without(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    problems.run(a_stage(tmp_path / "walls", "gcd", "half_life"))
    request.getfixturevalue("without_walls")
    problems.run(a_stage(tmp_path / "none", "gcd", "half_life"))
    assert both_files(tmp_path / "walls") == both_files(tmp_path / "none")
