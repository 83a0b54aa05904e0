"""A generator by its name: where its functions are, what its sandbox has to see, and whether it may be used without walls."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from athanor.rewards.sandbox.box import Sandbox
from athanor.rewards.sandbox.isolation import find_isolation
from athanor.rl.tasks import bootcamp, gym, programs, science

OURS = (science, programs)
MODULES = (gym.__name__, *(module.__name__ for module in OURS), bootcamp.__name__)


@dataclass(frozen=True)
class Generator:
    """`name` is what recipes, tasks and logs call it; `address` is what the functions of `module` know it by."""

    name: str
    module: str  # dotted; has `attributes`, `generate` and `score` as gym.py has them
    address: str  # the name, or of one's own the whole path of its file with the class
    file: Path | None = None  # of one's own

    @property
    def needs_walls(self) -> str:
        """Why it may be used only where nothing gets out of the sandbox; empty: it may be used anywhere."""
        if self.file:
            return "its own file may run what a model wrote"
        if self.module == programs.__name__:
            return "its answers are programs, which its verifier runs"
        return "its verifier runs what a model wrote" if self.name in gym.RUNS_ANSWERS else ""


def find_generator(name: str, folder: Path | None = None) -> Generator:
    """One of our own, `FILE.py:Class` below `folder` (by default the working directory), or else reasoning-gym's.

    Whether reasoning-gym has it is not looked up: `known_generators` tells.
    """
    path, _, camp = name.rpartition(":")
    if path:
        file = ((folder or Path()) / path).resolve()
        return Generator(name, bootcamp.__name__, f"{file}:{camp}", file)
    ours = [module.__name__ for module in OURS if name in module.KINDS]
    return Generator(name, ours[0] if ours else gym.__name__, name)


def is_file_and_class(name: str, folder: Path | None = None) -> bool:
    """Whether it is `FILE.py:Class`, and the file is there below `folder` (by default the working directory)."""
    path, _, camp = name.rpartition(":")
    return path.endswith(".py") and ((folder or Path()) / path).is_file() and camp.isidentifier()


def sandbox_of(generators: Iterable[Generator]) -> Sandbox:
    """One in which all of these make and judge problems."""
    modules, files = dict[str, None](), dict[Path, None]()
    for generator in generators:
        modules |= dict.fromkeys([generator.module, *(["reasoning_gym"] if generator.module == gym.__name__ else [])])
        files |= dict.fromkeys([generator.file] if generator.file else [])
    return Sandbox(list(modules), find_isolation(*files))
