"""Problems about molecules of a corpus (corpus.py), judged by RDKit. Functions as in gym.py.

A generator's address is `FILE:NAME`, the molecules with the generator; to judge, the name is enough. Each problem names its
subject, the canonical SMILES, so that what is held out is a molecule and not one question about it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from math import isclose
from pathlib import Path
from random import Random
from typing import Any

from athanor.recipe.schema.choices import MoleculeTask
from athanor.rl.tasks import chemistry
from athanor.rl.tasks.corpus import Molecule, folded, read_molecules
from athanor.rl.tasks.kinds import (
    AS_NUMBER,
    NUMBER,
    Entry,
    Kind,
    Made,
    figures,
    is_near,
    judge,
    level_counts,
    random_of,
    values_at,
)
from athanor.rl.tasks.science import atoms, written

DALTONS = 1.5e-3  # that an exact mass may be off: the average weight of a molecule is further
LEAST_OF_A_COUNT = 3  # molecules with so many rings: what one or two have is no answer that is worth being asked for often
SIZES = {"atoms": (6, 9, 14, 24, 40)}  # heavy ones, at most; more than at the level before
LEAST_TO_TELL_APART = 4  # heavy atoms: a smaller molecule has few others beside it
_SMILES = r"[A-Za-z0-9@+\-\[\]()=#$%/\\.:]+"
_AS_SMILES = "Answer with its SMILES alone."
_AS_COUNT = "Answer with the number alone."


@dataclass(frozen=True)
class Asked(Kind):
    """A kind whose `make` takes a molecule and all of its size beside; `fits` says which molecules it may be asked about."""

    fits: Callable[[Molecule], bool] = lambda _: True
    spread: Callable[[Molecule], int] = lambda _: 0  # the answer, where each is to be asked for as often as others


def attributes(generator: str) -> dict[str, int]:
    """How many levels each attribute has."""
    return level_counts(_kind(generator))


def generate(generator: str, levels: Mapping[str, int], seed: int, count: int, first: int = 0) -> list[Entry]:
    """`count` problems at these levels from number `first` on, each about another molecule. Raises ValueError past the last."""
    file, _, name = generator.rpartition(":")
    kind, numbers = _kind(name), range(first, first + count)
    values = values_at(kind, levels)
    asked = _order(kind, _molecules(file), values, Random(f"{name}:{values}:{seed}"))
    if numbers.stop > len(asked):
        raise ValueError(f"the corpus has {len(asked)} molecules for {name} at {values}")
    found = []
    for number in numbers:
        made = kind.make(random_of(name, values, seed, number), asked[number], **values)
        facts = {"question": made.question, "answer": made.answer, "case": made.case}
        found.append({**facts, "subject": asked[number].smiles, "held_out": asked[number].held_out})
    return found


def score(generator: str, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """1.0 for what is right, 0.0 for what is not."""
    return judge(_kind(generator), answers, entries)


def _kind(generator: str) -> Asked:
    return KINDS[MoleculeTask(generator.rpartition(":")[2])]


@cache
def _molecules(file: str) -> list[Molecule]:
    return read_molecules(Path(file))


def _order(kind: Asked, molecules: Sequence[Molecule], values: Mapping[str, int], random: Random) -> list[Molecule]:
    """All that may be asked about at this size, in turn of each answer that enough of them have."""
    most = values["atoms"]
    least = max((size for size in SIZES["atoms"] if size < most), default=0)
    groups: dict[int, list[Molecule]] = {}
    for molecule in molecules:
        if least < molecule.atoms <= most and kind.fits(molecule):
            groups.setdefault(kind.spread(molecule), []).append(molecule)
    for group in groups.values():
        random.shuffle(group)
    often = [group for _, group in sorted(groups.items()) if len(group) >= LEAST_OF_A_COUNT]
    return [molecule for turn in zip_longest(*often) for molecule in turn if molecule is not None]


def _known(molecule: Molecule) -> Any:
    return chemistry.read_molecule(molecule.smiles)


def _formula(random: Random, molecule: Molecule, atoms: int) -> Made:
    question = f"What is the molecular formula of the molecule with the SMILES {molecule.smiles}?"
    return Made(
        f"{question} Answer with the formula alone, its charge behind it: C2H6O, H4N+.", chemistry.formula(_known(molecule))
    )


def _is_formula(answer: str, entry: Entry) -> bool:
    """In whatever order of elements."""
    return _parts(answer) == _parts(str(entry["answer"]))


def _parts(formula: str) -> tuple[Mapping[str, int], int]:
    """Element → count, and the charge."""
    elements, sign, size = re.fullmatch(r"((?:[A-Z][a-z]?\d*)+)(?:([+-])(\d*))?", formula).groups()  # type: ignore[union-attr]
    return atoms(elements), int(f"{sign}{size or 1}") if sign else 0


def _average_weight(random: Random, molecule: Molecule, atoms: int) -> Made:
    question = f"What is the molar mass of the molecule with the SMILES {molecule.smiles}, in g/mol?"
    return Made(f"{question} {AS_NUMBER}", figures(chemistry.average_weight(_known(molecule))))


def _exact_mass(random: Random, molecule: Molecule, atoms: int) -> Made:
    question = f"What is the monoisotopic mass of the molecule with the SMILES {molecule.smiles}, in daltons?"
    return Made(f"{question} Answer with the number alone, to three decimals.", f"{chemistry.exact_mass(_known(molecule)):.4f}")


def _is_exact(answer: str, entry: Entry) -> bool:
    return isclose(float(answer), float(entry["answer"]), rel_tol=0, abs_tol=DALTONS)


def _is_count(answer: str, entry: Entry) -> bool:
    return int(answer) == int(entry["answer"])


def _count(question: str, count: Callable[[Molecule], int]) -> Asked:
    """How many of something a molecule has."""

    def make(random: Random, molecule: Molecule, atoms: int) -> Made:
        return Made(f"{question.format(molecule.smiles)} {_AS_COUNT}", str(count(molecule)))

    return Asked(make, _is_count, SIZES, r"\d{1,3}", spread=count)


def _same_molecule(random: Random, molecule: Molecule, atoms: int, options: int) -> Made:
    known = _known(molecule)
    others = [other for other, _ in zip(chemistry.neighbours(known, random), range(options), strict=False)]
    right = set(random.sample(range(options), random.randint(1, options)))
    if len(others) < options:  # too small to be told apart from so many
        right |= set(range(len(others), options))
    shown = [chemistry.rewritten(known if place in right else others[place], random) for place in range(options)]
    letters = "ABCDEF"[:options]
    told = "\n".join(f"{letter}: {smiles}" for letter, smiles in zip(letters, shown, strict=True))
    question = f"Which of these SMILES are of the same molecule as {molecule.smiles}?\n{told}"
    answer = ", ".join(letters[place] for place in sorted(right))
    return Made(f"{question}\nAnswer with the letters alone, such as A, B.", answer)


def _are_letters(answer: str, entry: Entry) -> bool:
    """In whatever order, none of them twice."""
    said = re.findall("[A-F]", answer)
    return len(said) == len(set(said)) and set(said) == set(re.findall("[A-F]", str(entry["answer"])))


def _scaffold(random: Random, molecule: Molecule, atoms: int) -> Made:
    question = f"What is the Murcko scaffold of the molecule with the SMILES {molecule.smiles}, without stereochemistry?"
    return Made(f"{question} It is the rings and what links them. {_AS_SMILES}", molecule.scaffold, molecule.scaffold)


def _structure_of_name(random: Random, molecule: Molecule, atoms: int) -> Made:
    return Made(f"What is the structure of {random.choice(molecule.names)}? {_AS_SMILES}", molecule.smiles, molecule.smiles)


def _is_case(answer: str, entry: Entry) -> bool:
    """Whatever way it is written."""
    return chemistry.canonical(answer) == str(entry["case"])


def _name_of_structure(random: Random, molecule: Molecule, atoms: int) -> Made:
    question = f"What is the IUPAC name of the molecule with the SMILES {molecule.smiles}? Answer with the name alone."
    return Made(question, molecule.names[0], molecule.names)


def _is_name(answer: str, entry: Entry) -> bool:
    return folded(answer) in map(folded, entry["case"])


def _description(random: Random, molecule: Molecule, atoms: int) -> Made:
    known = _known(molecule)
    case = _facts(known)
    facts = f"the molecular formula {chemistry.formula(known)}, {case[1]} rings, {case[2]} hydrogen atoms on nitrogen or oxygen"
    question = f"Write the SMILES of a molecule, any one, that has {facts} and {case[3]} tetrahedral stereocentres"
    return Made(f"{question}, whether or not they are said. {_AS_SMILES}", molecule.smiles, case)


def _facts(known: Any) -> list[Any]:
    """As JSON holds it: the formula in the order of `written`, rings, donors, stereocentres."""
    elements, charge = _parts(chemistry.formula(known))
    counts = (chemistry.ring_count, chemistry.hydrogen_donors, chemistry.stereocentres)
    return [f"{written(elements)}{charge:+d}", *(count(known) for count in counts)]


def _is_described(answer: str, entry: Entry) -> bool:
    known = chemistry.read_molecule(answer)
    return known is not None and bool(_facts(known) == entry["case"])


_FORMULA = r"(?:[A-Z][a-z]?\d{0,3})+(?:[+-]\d?)?"
_NAME = r"[^\n]{1,500}"

KINDS: dict[MoleculeTask, Asked] = {
    MoleculeTask.AVERAGE_WEIGHT: Asked(_average_weight, is_near, SIZES, NUMBER),
    MoleculeTask.EXACT_MASS: Asked(_exact_mass, _is_exact, SIZES, NUMBER),
    MoleculeTask.HYDROGEN_DONORS: _count(
        "How many hydrogen atoms are on nitrogen or oxygen in the molecule with the SMILES {}?", lambda molecule: molecule.donors
    ),
    MoleculeTask.MOLECULAR_FORMULA: Asked(_formula, _is_formula, SIZES, _FORMULA),
    MoleculeTask.MOLECULE_OF_DESCRIPTION: Asked(_description, _is_described, SIZES, _SMILES),
    MoleculeTask.NAME_OF_STRUCTURE: Asked(_name_of_structure, _is_name, SIZES, _NAME, fits=lambda molecule: bool(molecule.names)),
    MoleculeTask.RING_COUNT: _count(
        "How many rings has the smallest set of smallest rings of the molecule with the SMILES {}?",
        lambda molecule: molecule.rings,
    ),
    MoleculeTask.ROTATABLE_BONDS: _count(
        "How many rotatable bonds has the molecule with the SMILES {}, that is single bonds outside rings between two atoms, "
        "each of which has a further neighbour that is not hydrogen, and no triple bond?",
        lambda molecule: molecule.rotatable,
    ),
    MoleculeTask.SAME_MOLECULE: Asked(
        _same_molecule,
        _are_letters,
        {**SIZES, "options": (2, 4, 6)},
        r"[A-F](?:[,;\s]*(?:and\s+)?[A-F]){0,5}",
        fits=lambda molecule: molecule.atoms >= LEAST_TO_TELL_APART,
    ),
    MoleculeTask.SCAFFOLD: Asked(
        _scaffold,
        _is_case,
        SIZES,
        _SMILES,
        fits=lambda molecule: bool(molecule.scaffold) and molecule.scaffold != molecule.smiles,
    ),
    MoleculeTask.STEREOCENTRES: _count(
        "How many tetrahedral stereocentres, said or not, has the molecule with the SMILES {}?",
        lambda molecule: molecule.stereocentres,
    ),
    MoleculeTask.STRUCTURE_OF_NAME: Asked(
        _structure_of_name, _is_case, SIZES, _SMILES, fits=lambda molecule: bool(molecule.names)
    ),
}
