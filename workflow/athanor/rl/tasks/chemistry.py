"""Molecules as RDKit has them: what is read from a SMILES, and how one is written."""

from collections.abc import Iterator
from random import Random
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

LONGEST = 400  # characters of a SMILES
_WRITTEN = "CNOS"  # elements that one atom is exchanged for in a molecule that is nearly the same
_NON_STRICT = rdMolDescriptors.NumRotatableBondsOptions.NonStrict

rdBase.DisableLog("rdApp.*")  # it writes a line for every SMILES that is none


def read_molecule(smiles: str) -> Any:
    """An RDKit molecule; None for what is none, or leaves atoms open."""
    text = smiles.strip()
    molecule = Chem.MolFromSmiles(text) if 0 < len(text) <= LONGEST and " " not in text else None
    if molecule is None or not molecule.GetNumAtoms() or any(not atom.GetAtomicNum() for atom in molecule.GetAtoms()):
        return None
    return molecule


def canonical(smiles: str) -> str:
    """The one writing for all that a molecule has; empty for what is no molecule."""
    molecule = read_molecule(smiles)
    return "" if molecule is None else written(molecule)


def written(molecule: Any) -> str:
    """The canonical SMILES."""
    return str(Chem.MolToSmiles(molecule))


def heavy_atoms(molecule: Any) -> int:
    """How many atoms are not hydrogen."""
    return int(molecule.GetNumHeavyAtoms())


def formula(molecule: Any) -> str:
    """In Hill's order, with the charge behind it."""
    return str(rdMolDescriptors.CalcMolFormula(molecule))


def average_weight(molecule: Any) -> float:
    """Grams a mole, with the elements' natural isotopes."""
    return float(rdMolDescriptors._CalcMolWt(molecule))


def exact_mass(molecule: Any) -> float:
    """Daltons, with the commonest isotope of each element."""
    return float(rdMolDescriptors.CalcExactMolWt(molecule))


def ring_count(molecule: Any) -> int:
    """Rings of the smallest set of smallest ones."""
    return int(rdMolDescriptors.CalcNumRings(molecule))


def rotatable_bonds(molecule: Any) -> int:
    """Single bonds outside rings between two atoms that have other neighbours and no triple bond, amides among them."""
    return int(rdMolDescriptors.CalcNumRotatableBonds(molecule, _NON_STRICT))


def hydrogen_donors(molecule: Any) -> int:
    """Hydrogen atoms on nitrogen or oxygen, as Lipinski counts them."""
    return int(rdMolDescriptors.CalcNumLipinskiHBD(molecule))


def stereocentres(molecule: Any) -> int:
    """Tetrahedral ones, whether or not the SMILES says which way round they are."""
    found = Chem.FindMolChiralCenters(molecule, includeUnassigned=True, useLegacyImplementation=False)
    return len(found)


def scaffold(molecule: Any) -> str:
    """Murcko's: the rings and what links them, without what points left or right; empty where there is no ring."""
    bare = Chem.Mol(molecule)
    Chem.RemoveStereochemistry(bare)
    return written(MurckoScaffold.GetScaffoldForMol(bare))


def rewritten(molecule: Any, random: Random) -> str:
    """Another SMILES of the same molecule, or by chance the same one."""
    order = list(range(molecule.GetNumAtoms()))
    random.shuffle(order)
    return str(Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False))


def neighbours(molecule: Any, random: Random) -> Iterator[Any]:
    """Other molecules that differ from it in one atom: its element, or that it is there. They end when all are tried."""
    known = {written(molecule)}
    changes = [(atom.GetIdx(), element) for atom in molecule.GetAtoms() for element in (*_WRITTEN, "")]
    random.shuffle(changes)
    for place, element in changes:
        changed = Chem.RWMol(molecule)
        atom = changed.GetAtomWithIdx(place)
        if element:
            atom.SetAtomicNum(Chem.GetPeriodicTable().GetAtomicNumber(element))
            atom.SetNumExplicitHs(0)
        elif atom.GetDegree() == 1:
            changed.RemoveAtom(place)
        else:
            continue
        found = read_molecule(written(changed))
        if found is not None and (smiles := written(found)) not in known:
            known.add(smiles)
            yield found
