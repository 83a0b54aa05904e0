"""The suite `molecule_choice`: which of four SMILES strings has this IUPAC name, for compounds that were never trained on."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from athanor.evaluation.tasks import Document, Metric, OutputType, Row, SuiteError, Task, choose
from athanor.recipe.schema.choices import Suite

DOMAIN = "molecules"  # sources of this domain: the text ends with the SMILES, which is also the entity
CHOICES = 4
NEIGHBOURS = 24  # distractors are drawn from so many compounds closest in length
METRICS = (
    Metric("acc", higher_is_better=True, chance=1 / CHOICES),
    Metric("acc_norm", higher_is_better=True, chance=1 / CHOICES),
)


@dataclass(frozen=True)
class Compound:
    """A held-out document as a question: what stands before the SMILES, and the SMILES."""

    id: str
    prompt: str
    smiles: str


def compounds(documents: Iterable[Document]) -> list[Compound]:
    """Those documents whose text is a prompt followed by their entity, sorted by the entity's length.

    Of compounds with the same name or the same entity one is kept: each would be a right answer to the other's question.
    """
    by_prompt: dict[str, Compound] = {}
    for document in documents:
        prompt = document.text.removesuffix(document.entity)
        if document.entity and prompt.strip() and prompt != document.text and document.entity not in prompt:
            by_prompt.setdefault(prompt, Compound(document.id, prompt, document.entity))
    by_smiles = {compound.smiles: compound for compound in by_prompt.values()}
    return sorted(by_smiles.values(), key=lambda compound: (len(compound.smiles), compound.smiles))


def leaked(held_out: Sequence[Compound], training: Iterable[Document]) -> set[str]:
    """SMILES of the compounds that occur in a training document: as its entity, or as a word, line or `label: value` of
    its text; so does the name. Case is ignored.

    Two ways of writing one molecule are two strings, so a compound written otherwise is caught by its name only.
    """
    wanted: dict[str, str] = {}
    for compound in held_out:
        wanted[compound.smiles.casefold()] = wanted[compound.prompt.strip().casefold()] = compound.smiles
    hits: set[str] = set()
    for document in training:
        text = document.text.casefold()
        lines = text.splitlines()
        hits.update(wanted.keys() & {document.entity.casefold(), *text.split(), *lines, *(s.partition(": ")[2] for s in lines)})
    return {wanted[hit] for hit in hits}


def molecule_choice_task(held_out: Sequence[Compound], leaks: set[str], limit: int, seed: int) -> Task:
    """`limit` questions (0: all) with three wrong SMILES each, of other compounds of similar length.

    Raises SuiteError when fewer than four compounds are left.
    """
    clean = [compound for compound in held_out if compound.smiles not in leaks]
    if len(clean) < CHOICES:
        raise SuiteError(
            f"suite molecule_choice: {len(clean)} of {len(held_out)} held-out compounds are in no training document, it needs "
            f"{CHOICES}; add a source of domain {DOMAIN} whose template ends with its entity (`{{iupac}}\n{{smiles}}`), raise "
            "its max_bytes or data.held_out_fraction, or leave the suite out of evaluate.suites"
        )
    asked = choose(range(len(clean)), limit, seed, lambda place: clean[place].smiles)
    rows = [_question(clean, place, seed) for place in asked]
    counts = {"questions": len(rows), "compounds": len(held_out), "leaked": len(held_out) - len(clean)}
    return Task(Suite.MOLECULE_CHOICE, "molecule_choice", OutputType.MULTIPLE_CHOICE, rows, METRICS, counts, delimiter="")


def _question(clean: Sequence[Compound], place: int, seed: int) -> Row:
    right = clean[place]
    generator = random.Random(f"{seed}\0{right.smiles}")
    begin = max(0, min(place - NEIGHBOURS // 2, len(clean) - NEIGHBOURS - 1))  # `clean` is in order of length
    others = [compound for compound in clean[begin : begin + NEIGHBOURS + 1] if compound is not right]
    wrong = generator.sample(others, CHOICES - 1)
    choices = [right.smiles, *(compound.smiles for compound in wrong)]
    generator.shuffle(choices)
    return {"id": right.id, "prompt": right.prompt, "choices": choices, "answer": choices.index(right.smiles)}
