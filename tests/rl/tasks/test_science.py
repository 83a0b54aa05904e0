"""Answers of science: each against the law it is of, from nothing but the question."""

import math
import re
from typing import Any

import pytest

from athanor.rl.tasks import science
from athanor.rl.tasks.audit import audit_by_name
from athanor.rl.tasks.science import KINDS, atoms, attributes, codons, generate, score, weight, written
from tests.rewards.sandbox.walls import needs_walls

PROBLEMS = 40


def problems(generator: str) -> list[dict[str, Any]]:
    """At the first levels and at the last."""
    last = {name: count - 1 for name, count in attributes(generator).items()}
    return [*generate(generator, {}, 1, PROBLEMS), *generate(generator, last, 1, PROBLEMS)]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("generator", sorted(KINDS))
def test_answer_on_record_alone_is_right(generator: str) -> None:
    entries = problems(generator)
    golds = [entry["answer"] for entry in entries]
    assert set(score(generator, [f" {gold}\n" for gold in golds], entries)) == {1.0}
    for wrong in ("", "banana", "{} or banana", "{} {}", "it is {}"):
        assert set(score(generator, [wrong.format(gold, gold) for gold in golds], entries)) == {0.0}
    assert generate(generator, {}, 1, 3) == generate(generator, {}, 1, 9)[:3]
    assert generate(generator, {}, 1, 9)[1:] != generate(generator, {}, 2, 8)


@needs_walls
@pytest.mark.parametrize("generator", sorted(KINDS))
def test_audit_finds_every_level_sound(generator: str) -> None:
    found = audit_by_name(generator)
    assert not found.defects and not found.quarantine and not found.refused
    assert len(found.tasks) == math.prod(attributes(generator).values())


def test_sequences_are_read_as_cells_read_them() -> None:
    for entry in problems("dna_reverse_complement"):
        sequence = re.search("[ACGT]{6,}", entry["question"])[0]  # type: ignore[index]
        pairs = zip(sequence, reversed(entry["answer"]), strict=True)
        assert all(one + other in ("AT", "TA", "CG", "GC") for one, other in pairs)
    for entry in problems("dna_transcription"):
        template = re.search("3'-([ACGT]+)-5'", entry["question"])[1]  # type: ignore[index]
        assert all(one + other in ("AU", "TA", "CG", "GC") for one, other in zip(template, entry["answer"], strict=True))
    for entry in problems("gc_content"):
        sequence = re.search("[ACGT]{6,}", entry["question"])[0]  # type: ignore[index]
        share = 100 * len(re.findall("[GC]", sequence)) / len(sequence)
        assert float(entry["answer"]) == pytest.approx(share, rel=1e-3)
    for entry in problems("motif_count"):
        motif, sequence = re.findall("[ACGT]{2,}", entry["question"])
        assert int(entry["answer"]) == len(re.findall(f"(?={motif})", sequence))


def test_code_is_the_standard_one() -> None:
    table = codons()
    assert len(table) == 64 and [codon for codon, acid in table.items() if acid == "*"] == ["UAA", "UAG", "UGA"]
    known = {
        "AUG": "M",
        "UGG": "W",
        "AAA": "K",
        "GGG": "G",
        "UUU": "F",
        "CAU": "H",
        "GAC": "D",
        "AGC": "S",
        "CGU": "R",
        "AUA": "I",
    }
    assert known.items() <= table.items()
    insulin = "UUUGUGAACCAACACCUGUGCGGCUCACACCUG"  # the beginning of its B chain
    assert "".join(table[insulin[at : at + 3]] for at in range(0, len(insulin), 3)) == "FVNQHLCGSHL"


@pytest.mark.parametrize(
    ("formula", "grams"), [("H2O", 18.015), ("CO2", 44.009), ("C6H12O6", 180.156), ("NaCl", 58.44), ("C8H10N4O2", 194.194)]
)
def test_weights_are_those_of_the_tables(formula: str, grams: float) -> None:
    assert weight(formula) == pytest.approx(grams, abs=2e-3)
    assert written(atoms(formula)) in (formula, "ClNa")  # Hill's order without carbon is the alphabet's


def test_mass_that_lacks_a_hydrogen_is_wrong() -> None:
    entries = generate("molar_mass", {}, 1, PROBLEMS)
    assert set(score("molar_mass", [str(float(entry["answer"]) - 1.008) for entry in entries], entries)) == {0.0}


def test_moles_and_masses_agree() -> None:
    for entry in problems("moles_of_mass"):
        grams, formula = re.search(r"are (\d+) g of (\w+)", entry["question"]).groups()  # type: ignore[union-attr]
        assert float(entry["answer"]) * weight(formula) == pytest.approx(float(grams), rel=1e-3)


def test_equations_keep_their_atoms_with_the_smallest_numbers() -> None:
    entries = problems("combustion_equation")
    for entry in entries:
        left, right = entry["case"]
        before, after = (
            {e: sum(n * atoms(species)[e] for species, n in side.items()) for e in "CHONS"} for side in (left, right)
        )
        assert before == after
        assert math.gcd(*left.values(), *right.values()) == 1
    one = entries[0]
    left, right = one["answer"].split(" -> ")
    turned = " + ".join(reversed(left.split(" + "))) + " -> " + right
    doubled = f"{science._side({s: 2 * n for s, n in one['case'][0].items()})} -> {right}"
    answers = [turned, doubled, f"{right} -> {left}", f"99 O2 + {left} -> {right}", f"{left} -> {right} + 3 CO2"]
    assert score("combustion_equation", answers, [one] * len(answers)) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_gas_is_ideal() -> None:
    for entry in problems("ideal_gas"):
        values = dict(re.findall(r"(pressure|volume|temperature|amount) ([\d.]+) ", entry["question"]))
        asked = re.search(r"its (\w+) in", entry["question"])[1]  # type: ignore[index]
        p, v, t, n = (float({**values, asked: entry["answer"]}[name]) for name in ("pressure", "volume", "temperature", "amount"))
        assert p * v == pytest.approx(n * 0.0820574 * t, rel=2e-3)


def test_dilutions_and_decays_follow_their_laws() -> None:
    for entry in problems("dilution"):
        strength, *volumes = numbers(entry["question"].split("What")[0])
        taken, total = volumes[::2], volumes[1::2]
        expected = strength * math.prod(taken) / math.prod(total)
        assert float(entry["answer"]) == pytest.approx(expected, rel=1e-3)
    for entry in problems("half_life"):
        start, half_life, days = numbers(entry["question"].split("Answer")[0])
        assert float(entry["answer"]) == pytest.approx(start / 2 ** (days / half_life), rel=1e-3)


def test_units_are_what_they_are() -> None:
    units = science._UNITS
    assert 100 * 12 * units["length"]["in"] == 3048 * units["length"]["cm"]
    assert 63_360 * units["length"]["in"] == units["length"]["mi"]
    assert float(units["mass"]["lb"]) == 0.45359237 and units["time"]["d"] == 24 * 60 * units["time"]["min"]
    assert float(units["volume"]["in^3"]) == pytest.approx(1000 * float(units["length"]["in"]) ** 3)
    for entry in problems("unit_conversion"):
        amount, old, new = re.search(r"is (\d+) (\S+) in (\S+)\?", entry["question"]).groups()  # type: ignore[union-attr]
        sizes = {unit: float(size) for kind in units.values() for unit, size in kind.items()}
        (a, *below), (b, *under) = old.split("/"), new.split("/")
        factor = sizes[a] / sizes[b] * math.prod(map(sizes.get, under)) / math.prod(map(sizes.get, below))  # type: ignore[arg-type]
        assert float(entry["answer"]) == pytest.approx(float(amount) * factor, rel=1e-3)
