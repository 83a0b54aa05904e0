"""Generators of the task registry that need more than their name: a corpus of molecules, and packages of their own."""

from collections.abc import Iterator

from athanor.recipe.graph import STAGES
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import MathematicsTask, MoleculeTask, SourceKind
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.sections import ALL

NAMED = {MoleculeTask.NAME_OF_STRUCTURE, MoleculeTask.STRUCTURE_OF_NAME}  # that need a molecule's name


def problem_packages(r: Recipe) -> tuple[str, ...]:
    """Those whose version decides the problems of the registry."""
    named, mathematics = set(r.online.problems.generators), set(MathematicsTask)
    more = ["math-verify", "latex2sympy2-extended", "sympy"] if named & {ALL, *mathematics} else []
    return (*STAGES["problems"].packages, *more, *(["rdkit"] if r.online.problems.corpus else []))


def illegal_corpus(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with `online.problems.corpus`, and with generators that lack one."""
    settings, where = r.online.problems, "online.problems"
    every = ALL in settings.generators
    asked = [name for name in settings.generators if name in set(MoleculeTask)]
    if asked and not settings.corpus:
        advice = f"asks about molecules; give {where}.corpus, sources that have some, or leave it out"
        yield Problem(f"{where}.generators", asked[0], advice)
    if settings.corpus and settings.generators and not asked and not every:
        advice = f"no generator asks about molecules; name some ({', '.join(MoleculeTask)}), or leave it out"
        yield Problem(f"{where}.corpus", list(settings.corpus), advice)
    for name, fields in settings.corpus.items():
        source = r.data.sources.get(name)
        if source is None and r.data.sources:
            yield Problem(f"{where}.corpus.{name}", None, f"no such source; there is {', '.join(r.data.sources)}")
        elif source is not None and source.kind is SourceKind.REASONING_GYM:
            yield Problem(f"{where}.corpus.{name}", source.kind.value, "makes problems, not molecules; name another source")
        if "{" not in fields.smiles:
            yield Problem(f"{where}.corpus.{name}.smiles", fields.smiles, "names no field; write {field}")
        if fields.name and "{" not in fields.name:
            yield Problem(f"{where}.corpus.{name}.name", fields.name, "names no field; write {field}, or leave it out")
    unnamed = settings.corpus and not any(fields.name for fields in settings.corpus.values())
    if unnamed and (wanting := [name for name in asked if name in NAMED]):
        advice = f"asks for names, and no source of {where}.corpus has any; give one its name, or leave the generator out"
        yield Problem(f"{where}.generators", wanting[0], advice)
