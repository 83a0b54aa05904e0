"""Molecules of a corpus on disk: each once, with what is known of it, for generators that ask about them."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

from athanor.artifacts.files import write_atomically
from athanor.rl.tasks import chemistry

MOST_MOLECULES = 20_000  # that are kept: a call of a generator reads all of them in 0.1 s
MOST_ATOMS = 60  # other than hydrogen


@dataclass(frozen=True)
class Found:
    """A record of a source: `held_out` where pretraining does not see it."""

    smiles: str
    name: str
    held_out: bool


@dataclass
class Molecule:
    """One molecule, by its canonical SMILES."""

    smiles: str
    atoms: int  # heavy ones
    rings: int
    rotatable: int
    donors: int
    stereocentres: int
    scaffold: str
    held_out: bool  # where any of its records is
    names: list[str] = field(default_factory=list)  # without those that another molecule has as well


@dataclass
class Gathered:
    """What became of the records."""

    molecules: list[Molecule] = field(default_factory=list)
    unreadable: int = 0  # RDKit reads no molecule, or one that is left open
    too_large: int = 0  # more than MOST_ATOMS
    repeated: int = 0  # of a molecule that another record has
    ambiguous_names: int = 0  # that two molecules have: no problem tells or asks for them
    beyond_cap: int = 0  # more than MOST_MOLECULES

    def counters(self) -> dict[str, int]:
        """For the manifest."""
        counts = {f"molecules_{name}": value for name, value in vars(self).items() if isinstance(value, int)}
        return {"molecules": len(self.molecules), **counts}


def folded(name: str) -> str:
    """By which two names are the same: case and spacing aside."""
    return re.sub(r"\s+", " ", name.strip()).casefold()


def gather(records: Iterable[Found]) -> Gathered:
    """Every molecule of the records, in an order that a hash of its SMILES decides."""
    found, held_out = Gathered(), dict[str, bool]()
    names, meant = dict[str, list[str]](), dict[str, set[str]]()
    for record in records:
        molecule = chemistry.read_molecule(record.smiles)
        if molecule is None:
            found.unreadable += 1
            continue
        if chemistry.heavy_atoms(molecule) > MOST_ATOMS:
            found.too_large += 1
            continue
        smiles = chemistry.written(molecule)
        found.repeated += smiles in held_out
        held_out[smiles] = held_out.get(smiles, False) or record.held_out
        if name := " ".join(record.name.split()):
            names.setdefault(smiles, []).append(name)
            meant.setdefault(folded(name), set()).add(smiles)
    found.ambiguous_names = sum(len(molecules) > 1 for molecules in meant.values())
    ordered = sorted(held_out, key=lambda smiles: blake2b(smiles.encode(), digest_size=8, person=b"corpus").digest())
    found.beyond_cap = len(ordered[MOST_MOLECULES:])
    for smiles in ordered[:MOST_MOLECULES]:
        told = {folded(name): name for name in names.get(smiles, []) if len(meant[folded(name)]) == 1}
        found.molecules.append(_described(smiles, held_out[smiles], sorted(told.values())))
    return found


def _described(smiles: str, held_out: bool, names: list[str]) -> Molecule:
    molecule = chemistry.read_molecule(smiles)
    counts = (chemistry.ring_count, chemistry.rotatable_bonds, chemistry.hydrogen_donors, chemistry.stereocentres)
    rings, rotatable, donors, centres = (count(molecule) for count in counts)
    scaffold = chemistry.scaffold(molecule) if rings else ""
    return Molecule(smiles, chemistry.heavy_atoms(molecule), rings, rotatable, donors, centres, scaffold, held_out, names)


def write_molecules(path: Path, molecules: Sequence[Molecule]) -> None:
    """One JSON object a line."""
    write_atomically(path, "".join(f"{json.dumps(asdict(one))}\n" for one in molecules))


def read_molecules(path: Path) -> list[Molecule]:
    """What `write_molecules` wrote."""
    with path.open(encoding="utf-8") as lines:
        return [Molecule(**json.loads(line)) for line in lines]
