"""Problems about molecules: what is right however it is written, what is asked of whom, and every generator that is audited."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from athanor.recipe.schema.choices import MoleculeTask
from athanor.rl.tasks import chemistry, corpus
from athanor.rl.tasks.audit import audit_by_name
from athanor.rl.tasks.corpus import Found, gather, read_molecules, write_molecules
from athanor.rl.tasks.generator import MOLECULES, find_generator, sandbox_of
from athanor.rl.tasks.molecules import KINDS, LEAST_OF_A_COUNT, attributes, generate, score
from athanor.rl.tasks.verifying import Verifier
from tests.rewards.sandbox.walls import needs_walls

PARTS = ("C", "N", "O", "C(C)", "C(O)", "C(N)", "c1ccc(cc1)", "C1CC1", "C(=O)", "C(F)(Cl)")
ENDS = ("C", "O", "N", "c1ccncc1", "C1CCOC1")
CAFFEINE = "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"
ALANINE, NAME = "C[C@H](N)C(=O)O", "(2S)-2-aminopropanoic acid"


def chains() -> list[Found]:
    """Molecules of up to 40 heavy atoms: parts in a row, and a name for each that is nobody else's."""
    found = []
    for first in range(len(PARTS)):
        for length in range(1, 10):
            for end in ENDS:
                row = "".join(PARTS[(first + 3 * at + length) % len(PARTS)] for at in range(length))
                found.append(Found(f"C{row}{end}", f"{len(found)}-chainane", False))
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "molecules.jsonl"
    write_molecules(path, gather(chains()).molecules)
    return path


def asked(generator: MoleculeTask, smiles: str, folder: Path, **levels: int) -> dict[str, Any]:
    """The problem about one molecule, which alone is in the file, as often as counts need."""
    path = folder / "one.jsonl"
    [one] = gather([Found(smiles, NAME, False)]).molecules
    size = next(level for level, most in enumerate(KINDS[generator].levels["atoms"]) if one.atoms <= most)
    write_molecules(path, [one] * LEAST_OF_A_COUNT)
    [entry] = generate(f"{path}:{generator}", {"atoms": size, **levels}, 1, 1)
    return entry


def right(generator: MoleculeTask, answers: Sequence[str], entry: dict[str, Any]) -> list[str]:
    return [answer for answer, one in zip(answers, score(generator, answers, [entry] * len(answers)), strict=True) if one == 1.0]


# Of each generator a molecule, answers that are right, and answers that are not.
VERDICTS: dict[MoleculeTask, tuple[str, list[str], list[str]]] = {
    MoleculeTask.MOLECULAR_FORMULA: (
        CAFFEINE,
        ["C8H10N4O2", "H10C8O2N4"],
        ["C8H10N4O", "C8H10N4O2+", "C8 H10 N4 O2", "caffeine"],
    ),
    MoleculeTask.AVERAGE_WEIGHT: (CAFFEINE, ["194.2", "194.19", "1.942e2"], ["193.2", "194.2 g/mol", "195", "nan"]),
    MoleculeTask.EXACT_MASS: (CAFFEINE, ["194.080", "194.0804"], ["194.19", "194.08 or 194.19", "194.1"]),
    MoleculeTask.RING_COUNT: (CAFFEINE, ["2"], ["1", "3", "2.0", "two", "2 or 3"]),
    MoleculeTask.ROTATABLE_BONDS: ("CCOC(=O)CCO", ["4"], ["3", "5", "6"]),
    MoleculeTask.HYDROGEN_DONORS: (ALANINE, ["3"], ["2", "4"]),
    MoleculeTask.STEREOCENTRES: ("CC(O)C(N)C", ["2"], ["0", "1"]),
    MoleculeTask.SCAFFOLD: (
        "CC(C)Cc1ccc(cc1)C2CC2O",
        ["c1ccc(C2CC2)cc1", "C1CC1c1ccccc1"],
        ["c1ccccc1", "C1CC1", "CC(C)Cc1ccc(cc1)C2CC2O", ""],
    ),
    MoleculeTask.STRUCTURE_OF_NAME: (
        ALANINE,
        ["C[C@H](N)C(=O)O", "OC(=O)[C@@H](N)C", "[CH3][C@H](N)C(O)=O"],
        ["CC(N)C(=O)O", "C[C@@H](N)C(=O)O", "C[C@H](N)C(=O)O.O", "C[C@H](N)C(=O", "C[C@H](N)C(=O)O or C", NAME],
    ),
    MoleculeTask.NAME_OF_STRUCTURE: (ALANINE, [NAME, f" {NAME.upper()}"], ["alanine", f"{NAME} or water", ALANINE, ""]),
    MoleculeTask.MOLECULE_OF_DESCRIPTION: (
        "CC(O)CN",
        ["CC(O)CN", "NCC(C)O", "CC(N)CO", "C[C@@H](N)CO"],
        ["CCCON", "CC(O)CNC", "CCC(N)O.O", "[CH3]", "C3H9NO"],
    ),
}


@pytest.mark.parametrize("generator", sorted(VERDICTS))
def test_what_is_right_is_so_however_it_is_written(generator: MoleculeTask, tmp_path: Path) -> None:
    molecule, good, bad = VERDICTS[generator]
    entry = asked(generator, molecule, tmp_path)
    assert right(generator, [entry["answer"], *good, *bad], entry) == [entry["answer"], *good]
    assert entry["subject"] == chemistry.canonical(molecule)


def test_same_molecule_is_told_from_its_neighbours(tmp_path: Path) -> None:
    entry = asked(MoleculeTask.SAME_MOLECULE, CAFFEINE, tmp_path, options=2)
    told = dict(line.split(": ") for line in entry["question"].splitlines() if line[1:3] == ": ")
    same = [letter for letter, smiles in told.items() if chemistry.canonical(smiles) == chemistry.canonical(CAFFEINE)]
    assert len(told) == 6 and 0 < len(same) < 6 and entry["answer"] == ", ".join(same)
    others = sorted(set(told) - set(same))
    wrong = [", ".join([same[0], *same]), ", ".join(told), ", ".join(others), ", ".join([*same, others[0]]), ""]
    turned = " and ".join(reversed(same))
    assert right(MoleculeTask.SAME_MOLECULE, [turned, *wrong], entry) == [turned]


@pytest.mark.parametrize(
    "hostile",
    ["(" * 10**5, "C" * 10**6, "C1" * 10**4, "9**9**9", "\u202e𝟙", "[" * 300, "C%99" * 50, "*", "[U+999]", "", "C\x00C"],
)
def test_hostile_structure_is_no_answer(hostile: str, tmp_path: Path) -> None:
    entry = asked(MoleculeTask.STRUCTURE_OF_NAME, ALANINE, tmp_path)
    generator = find_generator(MoleculeTask.STRUCTURE_OF_NAME)
    with sandbox_of([generator]) as sandbox:
        verdicts = Verifier(sandbox).judge(MOLECULES, generator.address, [hostile, ALANINE], [entry] * 2)
    assert [verdict.right for verdict in verdicts] == [False, True]


def test_records_are_read_once_and_what_is_none_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        Found("OCC", "ethanol", False),
        Found("CCO", "Ethyl alcohol", True),
        Found("C" * (corpus.MOST_ATOMS + 1), "", False),
    ]
    records += [Found(smiles, "", False) for smiles in ("no", "C*", "C1CC", "")]
    records += [Found("C", "twin", False), Found("CC", "Twin ", False)]
    found = gather(records)
    counted = {"molecules": 3, "molecules_unreadable": 4, "molecules_too_large": 1, "molecules_repeated": 1}
    assert found.counters() == {**counted, "molecules_ambiguous_names": 1, "molecules_beyond_cap": 0}
    by_smiles = {one.smiles: one for one in found.molecules}
    assert by_smiles["CCO"].names == ["Ethyl alcohol", "ethanol"] and by_smiles["CCO"].held_out
    assert not by_smiles["C"].names and not by_smiles["C"].held_out
    monkeypatch.setattr(corpus, "MOST_MOLECULES", 2)
    fewer = gather(records)
    assert fewer.molecules == found.molecules[:2] and fewer.beyond_cap == 1


def test_file_says_what_was_gathered(file: Path) -> None:
    assert read_molecules(file) == gather(chains()).molecules


def test_each_count_is_asked_for_as_often_as_others_and_no_molecule_twice(file: Path) -> None:
    generator = f"{file}:{MoleculeTask.RING_COUNT}"
    entries = generate(generator, {"atoms": 3}, 1, 12)
    answers = [entry["answer"] for entry in entries]
    assert max(map(answers.count, answers)) - min(map(answers.count, answers)) <= 1 < len(set(answers))
    assert len({entry["subject"] for entry in entries}) == 12
    assert generate(generator, {"atoms": 3}, 1, 4, first=5) == entries[5:9]
    with pytest.raises(ValueError, match=r"the corpus has \d+ molecules for ring_count at"):
        generate(generator, {}, 1, 1, first=10**6)


def test_every_generator_that_recipes_may_name_is_there() -> None:
    assert set(KINDS) == set(MoleculeTask)
    assert {find_generator(name).module for name in MoleculeTask} == {MOLECULES}


@needs_walls
@pytest.mark.parametrize("generator", sorted(MoleculeTask))
def test_audit_finds_every_level_sound(generator: str, file: Path) -> None:
    found = audit_by_name(f"{file}:{generator}")
    assert not found.defects and not found.quarantine and not found.refused
    assert len(found.tasks) == math.prod(attributes(generator).values())
