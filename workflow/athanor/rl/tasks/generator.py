"""A generator by its name: where its functions are, what its sandbox has to see, and whether it may be used without walls."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from athanor.recipe.schema.choices import MathematicsTask, MoleculeTask
from athanor.rewards.sandbox.box import Sandbox
from athanor.rewards.sandbox.isolation import find_isolation
from athanor.rl.tasks import bootcamp, gym, programs, science

# By name alone: sympy and RDKit are the sandbox's to import.
MATHEMATICS, MOLECULES = "athanor.rl.tasks.mathematics", "athanor.rl.tasks.molecules"
OURS = {
    **dict.fromkeys(science.KINDS, science.__name__),
    **dict.fromkeys(programs.KINDS, programs.__name__),
    **dict.fromkeys(map(str, MathematicsTask), MATHEMATICS),
}  # those that need nothing but their name; generators of molecules need the molecules
MODULES = (gym.__name__, *dict.fromkeys(OURS.values()), MOLECULES, bootcamp.__name__)
_IMPORTED = {gym.__name__: "reasoning_gym", MATHEMATICS: "athanor.rl.tasks.equality"}  # what a module imports when it is used


@dataclass(frozen=True)
class Generator:
    """`name` is what recipes, tasks and logs call it; `address` is what the functions of `module` know it by."""

    name: str
    module: str  # dotted; has `attributes`, `generate` and `score` as gym.py has them
    address: str  # the name, or of one with a file the whole path of that with the class, or with the name
    file: Path | None = None  # of one's own, or of the molecules that are asked about

    @property
    def needs_walls(self) -> str:
        """Why it may be used only where nothing gets out of the sandbox; empty: it may be used anywhere."""
        if self.module == bootcamp.__name__:
            return "its own file may run what a model wrote"
        if self.module == programs.__name__:
            return "its answers are programs, which its verifier runs"
        return "its verifier runs what a model wrote" if self.name in gym.RUNS_ANSWERS else ""


def find_generator(name: str, folder: Path | None = None) -> Generator:
    """One of our own, `FILE.py:Class` or `FILE:NAME` of molecules below `folder` (by default the working directory), or else
    reasoning-gym's.

    Whether reasoning-gym has it is not looked up: `known_generators` tells. One of molecules without their file judges alone.
    """
    path, _, inside = name.rpartition(":")
    if path:
        file = ((folder or Path()) / path).resolve()
        return Generator(name, MOLECULES if inside in set(MoleculeTask) else bootcamp.__name__, f"{file}:{inside}", file)
    return Generator(name, MOLECULES if name in set(MoleculeTask) else OURS.get(name, gym.__name__), name)


def asks_about(name: MoleculeTask, molecules: Path) -> Generator:
    """The generator that asks about the molecules of a file, by its name alone."""
    return Generator(str(name), MOLECULES, f"{molecules}:{name}", molecules)


def is_file_and_class(name: str, folder: Path | None = None) -> bool:
    """Whether it is `FILE.py:Class` or `FILE:NAME` of molecules, and the file is there below `folder` (by default the working
    directory).
    """
    path, _, inside = name.rpartition(":")
    known = inside in set(MoleculeTask) or (path.endswith(".py") and inside.isidentifier())
    return known and ((folder or Path()) / path).is_file()


def sandbox_of(generators: Iterable[Generator]) -> Sandbox:
    """One in which all of these make and judge problems."""
    modules, files = dict[str, None](), dict[Path, None]()
    for generator in generators:
        modules |= dict.fromkeys([generator.module, *filter(None, [_IMPORTED.get(generator.module)])])
        files |= dict.fromkeys([generator.file] if generator.file else [])
    return Sandbox(list(modules), find_isolation(*files))
