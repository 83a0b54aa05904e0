"""Changed stage code asks for a new version, or for a word that the result is the same."""

import sys
from pathlib import Path

import pytest

from athanor.recipe.graph import STAGES
from tests.recipe.stage_sources import Pin, Sources, meaning, problems, read_pins, updated

FILES = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/bake.py": "from oven.data.flour import sift\ndef run():\n    from oven.models import dough\n    return sift(dough)\n",
    "stages/eat.py": "from oven.recipe import menu\n",
    "data/__init__.py": "",
    "data/flour.py": '"""Flour."""\n\n\ndef sift(x):\n    """Sift."""\n    return x + 1\n',
    "models/__init__.py": "WEIGHT = 3\n",
    "models/dough.py": "from oven.models import water\n",
    "models/water.py": "LITRES = 1\n",
    "recipe/__init__.py": "",
    "recipe/menu.py": "BREAD = 1\n",
}
VERSIONS = {"bake": 1, "eat": 1}


@pytest.fixture
def oven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package of stages, importable."""
    for name, text in FILES.items():
        path = tmp_path / "oven" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "oven"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "oven"


def sources() -> Sources:
    return Sources("oven", ("stages", "data", "models"))


def pins() -> dict[str, Pin]:
    return {stage: updated(None, stage, version, sources(), "") for stage, version in VERSIONS.items()}


def test_stage_is_made_of_all_it_imports_in_the_rooms(oven: Path) -> None:
    assert sources().modules("bake") == [
        "oven.data", "oven.data.flour", "oven.models", "oven.models.dough", "oven.models.water",
        "oven.stages", "oven.stages.bake",
    ]  # fmt: skip
    assert sources().modules("eat") == ["oven.stages", "oven.stages.eat"]


def test_unchanged_code_is_as_pinned(oven: Path) -> None:
    assert problems(pins(), VERSIONS, sources()) == []


@pytest.mark.parametrize("module", ["stages/bake.py", "data/flour.py", "models/water.py", "models/__init__.py"])
def test_changed_code_behind_a_stage_is_a_problem_with_both_ways_out(oven: Path, module: str) -> None:
    before = pins()
    (oven / module).write_text((oven / module).read_text() + "\nMORE = 2\n")
    (found,) = problems(before, VERSIONS, sources())
    assert found.startswith("the code behind stage bake changed, its version 1 did not; raise it")
    assert 'update bake --same-result "why"' in found


def test_changed_code_outside_the_rooms_is_none(oven: Path) -> None:
    before = pins()
    (oven / "recipe" / "menu.py").write_text("BREAD = 2\n")
    assert problems(before, VERSIONS, sources()) == []


def test_comments_docstrings_and_layout_do_not_count(oven: Path) -> None:
    before = pins()
    (oven / "data" / "flour.py").write_text("# fine\ndef sift(\n    x,\n):\n    'Finer.'\n    return (x\n            + 1)\n")
    assert problems(before, VERSIONS, sources()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 'a'", "x = b'a'"),
        ("f(a, b)", "f(b, a)"),
        ("def f(a=1): pass", "def f(a=2): pass"),
        ("def f(): 'doc'; 'statement'", "def f(): 'doc'; 'another'"),
        ("f'{x:.2f}'", "f'{x:.3f}'"),
        ("for i in a: pass", "async def g():\n async for i in a: pass"),
    ],
)
def test_what_code_means_counts(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


def test_raised_version_asks_for_a_new_pin_and_then_is_fine(oven: Path) -> None:
    before, raised = pins(), {**VERSIONS, "bake": 2}
    (oven / "data" / "flour.py").write_text("def sift(x): return x + 2\n")
    assert problems(before, raised, sources())[0].startswith("stage bake is version 2, pinned is 1; ")
    after = {**before, "bake": updated(before["bake"], "bake", 2, sources(), "")}
    assert problems(after, raised, sources()) == []


def test_same_result_needs_a_reason_and_keeps_it(oven: Path) -> None:
    before = pins()
    (oven / "data" / "flour.py").write_text("def sift(x): return 1 + x\n")
    for reason in ("", "  "):
        with pytest.raises(ValueError, match="raise it, or give --same-result"):
            updated(before["bake"], "bake", 1, sources(), reason)
    after = {**before, "bake": updated(before["bake"], "bake", 1, sources(), "addition commutes")}
    assert after["bake"].note == "addition commutes"
    assert problems(after, VERSIONS, sources()) == []


def test_lowered_version_is_refused(oven: Path) -> None:
    before = Pin(3, "0" * 16)
    with pytest.raises(ValueError, match="versions only rise"):
        updated(before, "bake", 2, sources(), "why")


def test_new_and_vanished_stages_are_named(oven: Path) -> None:
    before = pins()
    before["toast"] = before.pop("eat")
    assert [line.split(";")[0] for line in problems(before, VERSIONS, sources())] == [
        "stage toast is pinned, but there is no such stage",
        "stage eat is not pinned",
    ]


def test_every_stage_of_the_lifecycle_is_as_pinned() -> None:
    versions = {stage.name: stage.version for stage in STAGES.values()}
    assert problems(read_pins(), versions, Sources()) == []
