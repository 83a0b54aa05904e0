"""Problems of chemistry and biology whose answers are computed, with levels and verifiers of our own. Functions as in gym.py.

Constants: the gas constant of CODATA 2018, IUPAC's abridged standard atomic weights of 2021, the standard genetic code.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from random import Random

from athanor.rl.tasks.kinds import AS_NUMBER, NUMBER, Entry, Kind, Made, figures, is_near, is_same, judge, level_counts, make

GAS_CONSTANT = 0.0820574  # litre atmospheres a kelvin and mole
FORMULA = r"(?:[A-Z][a-z]?\d*)+"
_BASES = "ACGT"
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"  # by codon, bases in the order UCAG
_COMPLEMENT = str.maketrans("ACGT", "TGCA")

_WEIGHTS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "F": 18.998, "Na": 22.990, "P": 30.974, "S": 32.06, "Cl": 35.45}
_WEIGHTS |= {"K": 39.098, "Br": 79.904, "I": 126.904}

# Each unit in the first of its kind.
_UNITS: dict[str, dict[str, Fraction]] = {
    kind: {unit: Fraction(size) for unit, size in sizes.items()}
    for kind, sizes in {
        "length": {"m": "1", "cm": "0.01", "km": "1000", "in": "0.0254", "mi": "1609.344"},
        "mass": {"kg": "1", "g": "0.001", "mg": "0.000001", "lb": "0.45359237"},
        "time": {"s": "1", "min": "60", "h": "3600", "d": "86400"},
        "volume": {"L": "1", "mL": "0.001", "µL": "0.000001", "in^3": "0.016387064", "m^3": "1000"},
    }.items()
}


def attributes(generator: str) -> dict[str, int]:
    """How many levels each attribute has."""
    return level_counts(KINDS[generator])


def generate(generator: str, levels: Mapping[str, int], seed: int, count: int, first: int = 0) -> list[Entry]:
    """`count` problems at these levels, or at the first of all, from number `first` on."""
    return make(generator, KINDS[generator], levels, seed, range(first, first + count))


def score(generator: str, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """1.0 for what is right, 0.0 for what is not."""
    return judge(KINDS[generator], answers, entries)


def _sequence(random: Random, length: int) -> str:
    return "".join(random.choices(_BASES, k=length))


def _reverse_complement(random: Random, length: int) -> Made:
    sequence = _sequence(random, length)
    question = f"What is the reverse complement of the DNA sequence {sequence}, 5' to 3'? Answer with the sequence alone."
    return Made(question, sequence.translate(_COMPLEMENT)[::-1])


def _transcription(random: Random, length: int) -> Made:
    sequence = _sequence(random, length)
    asked = "Which mRNA is made from it? Answer with its sequence, 5' to 3', alone."
    return Made(
        f"The template strand of a gene reads 3'-{sequence}-5'. {asked}", sequence.translate(_COMPLEMENT).replace("T", "U")
    )


@cache
def codons() -> dict[str, str]:
    """Codon → amino acid in one letter; `*` ends."""
    return dict(zip(map("".join, product("UCAG", repeat=3)), _AMINO_ACIDS, strict=True))


def _translation(random: Random, length: int) -> Made:
    coding = [codon for codon, acid in codons().items() if acid != "*"]
    sequence = ["AUG", *random.choices(coding, k=length - 1), random.choice(["UAA", "UAG", "UGA"])]
    asked = "from its start codon to its stop codon. Answer with one letter an amino acid, alone."
    return Made(f"Translate the mRNA {''.join(sequence)} {asked}", "".join(codons()[codon] for codon in sequence[:-1]))


def _gc_content(random: Random, length: int) -> Made:
    sequence = _sequence(random, length - 1) + random.choice("GC")  # never 0 %
    share = 100 * sum(sequence.count(base) for base in "GC") / length
    return Made(f"What is the GC content of {sequence}, in percent? {AS_NUMBER}", figures(share))


def _motif_count(random: Random, length: int) -> Made:
    sequence, motif = _sequence(random, length), _sequence(random, 2)
    found = sum(sequence.startswith(motif, at) for at in range(length))
    question = f"How often is {motif} found in {sequence}, overlaps counted? Answer with the number alone."
    return Made(question, str(found))


def atoms(formula: str) -> Counter[str]:
    """Element → count, of a formula without brackets."""
    found: Counter[str] = Counter()
    for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
        found[element] += int(count or 1)
    return found


def written(counts: Mapping[str, int]) -> str:
    """The formula in Hill's order."""
    first = [element for element in ("C", "H") if counts.get("C") and counts.get(element)]
    rest = sorted(element for element, count in counts.items() if count and element not in first)
    return "".join(f"{e}{counts[e] if counts[e] > 1 else ''}" for e in (*first, *rest))


def weight(formula: str) -> float:
    """Grams a mole."""
    return sum(_WEIGHTS[element] * count for element, count in atoms(formula).items())


def _random_formula(random: Random, elements: int) -> str:
    chosen = ["C", "H", *random.sample(sorted(_WEIGHTS.keys() - {"C", "H"}), elements - 2)]
    return written({element: random.randint(1, 12) for element in chosen})


def _molar_mass(random: Random, elements: int) -> Made:
    formula = _random_formula(random, elements)
    return Made(f"What is the molar mass of {formula}, in g/mol? {AS_NUMBER}", figures(weight(formula)))


def _moles(random: Random, elements: int) -> Made:
    formula, grams = _random_formula(random, elements), random.randint(5, 500)
    question = f"How many moles are {grams} g of {formula}? {AS_NUMBER}"
    return Made(question, figures(grams / weight(formula)))


def _combustion(random: Random, carbons: int, others: int) -> Made:
    """Of a compound of carbon and hydrogen, and with `others` of oxygen (1), nitrogen (2) or sulphur (3)."""
    most = random.randint(carbons // 2, carbons)
    counts = {"C": most, "H": 2 * random.randint(1, most + 1)}
    if others:
        counts["_ONS"[others]] = random.randint(1, 3)
    fuel = written(counts)
    made = {"CO2": Fraction(counts["C"]), "H2O": Fraction(counts["H"], 2)}
    if others == 2:
        made["N2"] = Fraction(counts["N"], 2)
    if others == 3:
        made["SO2"] = Fraction(counts["S"])
    oxygen = made["CO2"] + made["H2O"] / 2 + made.get("SO2", Fraction(0)) - Fraction(counts.get("O", 0), 2)
    if oxygen <= 0:
        return _combustion(random, carbons, others)
    left, right = {fuel: Fraction(1), "O2": oxygen}, made
    common = math.lcm(*(amount.denominator for amount in (*left.values(), *right.values())))
    sides = [{species: int(amount * common) for species, amount in side.items()} for side in (left, right)]
    bare = " -> ".join(" + ".join(side) for side in sides)
    question = f"Balance {bare} with the smallest whole numbers. Answer with the equation alone, such as 2 H2 + O2 -> 2 H2O."
    return Made(question, " -> ".join(_side(side) for side in sides), sides)


def _side(species: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {name}" if count > 1 else name for name, count in species.items())


def _is_balanced(answer: str, entry: Entry) -> bool:
    """The same species on the same sides with the same amounts; in any order."""
    sides = [dict(side) for side in entry["case"]]
    return [_species(side) for side in answer.split("->")] == [sorted(side.items()) for side in sides]


def _species(side: str) -> list[tuple[str, int]]:
    """Each as it is said: one that is said twice stands there twice."""
    found = (re.fullmatch(r"(\d*) ?(\S+)", part.strip()) for part in side.split(" + "))
    return sorted((match[2], int(match[1] or 1)) for match in found if match)


def _conversion(random: Random, kinds: int) -> Made:
    """A quantity of one unit in another; of two kinds, a rate."""
    first, *rest = random.sample(list(_UNITS), kinds)
    (old, new), factor = random.sample(list(_UNITS[first]), 2), Fraction(1)
    factor *= _UNITS[first][old] / _UNITS[first][new]
    for other in rest:
        below, under = random.sample(list(_UNITS[other]), 2)
        old, new, factor = f"{old}/{below}", f"{new}/{under}", factor * _UNITS[other][under] / _UNITS[other][below]
    amount = random.randint(2, 999)
    return Made(f"What is {amount} {old} in {new}? {AS_NUMBER}", figures(float(amount * factor)))


def _dilution(random: Random, steps: int) -> Made:
    strength, told = random.randint(20, 500) / 10, []
    now = strength
    for _ in range(steps):
        taken, total = random.randint(1, 50), random.randint(60, 500)
        now *= taken / total
        told.append(f"{taken} mL of it are filled up to {total} mL")
    question = f"A solution has {strength} mmol/L; {', then '.join(told)}. What is the end in mmol/L? {AS_NUMBER}"
    return Made(question, figures(now))


def _ideal_gas(random: Random, unknown: int) -> Made:
    """`unknown`: 1 the pressure, 2 also the volume, 3 also the temperature, 4 also the amount may be asked for."""
    n, volume, kelvin = random.randint(2, 90) / 10, random.randint(5, 80), random.randint(250, 600)
    pressure = n * GAS_CONSTANT * kelvin / volume
    values = {"pressure": (pressure, "atm"), "volume": (volume, "L"), "temperature": (kelvin, "K"), "amount": (n, "mol")}
    asked = random.choice(list(values)[:unknown])
    shown = {name: figures(pressure) if name == "pressure" else str(value) for name, (value, _) in values.items()}
    if asked != "pressure":  # from the pressure as it is told
        given = float(shown["pressure"])
        solved = {"volume": pressure * volume / given, "temperature": kelvin * given / pressure, "amount": n * given / pressure}
        values[asked] = (solved[asked], values[asked][1])
    known = ", ".join(f"{name} {shown[name]} {unit}" for name, (_, unit) in values.items() if name != asked)
    amount, unit = values[asked]
    question = f"An ideal gas: {known}. What is its {asked} in {unit}, with R = {GAS_CONSTANT} L atm/(mol K)? {AS_NUMBER}"
    return Made(question, figures(amount))


def _decay(random: Random, halves: int) -> Made:
    half_life, times, start = random.randint(2, 90), random.randint(1, 10 * halves) / 10, random.randint(10, 900)
    passed = round(half_life * times, 1)
    asked = f"how many mg are left after {passed} days? {AS_NUMBER}"
    return Made(
        f"Of {start} mg of an isotope with a half-life of {half_life} days, {asked}",
        figures(start * 0.5 ** (passed / half_life)),
    )


_LENGTHS = {"length": (6, 10, 16, 24, 40)}
_ELEMENTS = {"elements": (2, 3, 4, 5)}
_AMOUNT = r"\d* ?" + FORMULA
_SIDES = rf"{_AMOUNT}(?: \+ {_AMOUNT})*"

KINDS: dict[str, Kind] = {
    "combustion_equation": Kind(
        _combustion, _is_balanced, {"carbons": (8, 16, 32, 60), "others": (0, 1, 2, 3)}, rf"{_SIDES} -> {_SIDES}"
    ),
    "dilution": Kind(_dilution, is_near, {"steps": (1, 2, 3, 4)}, NUMBER),
    "dna_reverse_complement": Kind(_reverse_complement, is_same, _LENGTHS, "[ACGT]+"),
    "dna_transcription": Kind(_transcription, is_same, _LENGTHS, "[ACGU]+"),
    "gc_content": Kind(_gc_content, is_near, _LENGTHS, NUMBER),
    "half_life": Kind(_decay, is_near, {"halves": (1, 3, 6, 9)}, NUMBER),
    "ideal_gas": Kind(_ideal_gas, is_near, {"unknown": (1, 2, 3, 4)}, NUMBER),
    "molar_mass": Kind(_molar_mass, is_near, _ELEMENTS, NUMBER),
    "moles_of_mass": Kind(_moles, is_near, _ELEMENTS, NUMBER),
    "motif_count": Kind(_motif_count, is_same, {"length": (16, 24, 40, 64, 100)}, r"\d+"),
    "mrna_translation": Kind(_translation, is_same, {"length": (2, 4, 8, 12, 20)}, "[ACDEFGHIKLMNPQRSTVWY]+"),
    "unit_conversion": Kind(_conversion, is_near, {"kinds": (1, 2, 3)}, NUMBER),
}
