"""A pinned digest of the code behind each stage: changed code asks for a new version, or for a word that it is harmless.

A stage's fingerprint knows its version, not its code. So a change of the code that changes results must raise `version`
in `athanor.recipe.graph.STAGES`; `stage_sources.json` makes sure that nobody forgets to think about it.

    python -m tests.recipe.stage_sources                                        what differs from the pins
    python -m tests.recipe.stage_sources update pretrain --same-result "why"    the results stay the same
    python -m tests.recipe.stage_sources update pretrain                        after raising the version

Comments, docstrings and layout do not count. Imports made by name at run time (importlib) are not seen.
"""

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grimp

from athanor.recipe.graph import STAGES

PINS = Path(__file__).with_name("stage_sources.json")
ROOMS = ("stages", "data", "models", "training", "rewards", "rl", "external", "evaluation")  # where results are made
DIGITS = 16


@dataclass(frozen=True)
class Pin:
    """What was true when somebody last thought about a stage's results."""

    version: int
    digest: str
    note: str = ""  # why changed code gave the same result


@dataclass
class Sources:
    """The modules of `package`, and which of them a stage runs."""

    package: str = "athanor"
    rooms: Sequence[str] = ROOMS
    _digests: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _graph(self) -> grimp.ImportGraph:
        return grimp.build_graph(self.package, cache_dir=None)

    def modules(self, stage: str) -> list[str]:
        """The stage's module, what it imports in the rooms, directly or not, and the packages these are in."""
        found: set[str] = set()
        waiting = [f"{self.package}.stages.{stage}"]
        while waiting:
            module = waiting.pop()
            if module in found or not self._counts(module):
                continue
            found.add(module)
            waiting += [module.rpartition(".")[0], *self._graph.find_modules_directly_imported_by(module)]
        return sorted(found)

    def digest(self, stage: str) -> str:
        """A hash over the meaning of all of the stage's modules."""
        lines = [f"{module} {self._digest_of(module)}\n" for module in self.modules(stage)]
        return _hash("".join(lines))

    def _counts(self, module: str) -> bool:
        return module.split(".")[1:2] != [] and module.split(".")[1] in self.rooms

    def _digest_of(self, module: str) -> str:
        if module not in self._digests:
            self._digests[module] = _hash(meaning(self._path(module).read_text(encoding="utf-8")))
        return self._digests[module]

    def _path(self, module: str) -> Path:
        """The file of a module, found without importing anything but the top package."""
        top = find_spec(self.package)
        assert top is not None and top.origin is not None, self.package
        path = Path(top.origin).parent.joinpath(*module.split(".")[1:])
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def meaning(source: str) -> str:
    """The syntax tree without comments, docstrings and layout, written the same by every version of Python."""
    return json.dumps(_plain(ast.parse(source)), ensure_ascii=True)


def _plain(node: Any) -> Any:
    """A tree of lists; fields that are empty are left out, since newer versions of Python add such."""
    if isinstance(node, ast.AST):
        values = ((name, _field(node, name)) for name in node._fields)
        return [type(node).__name__, *([name, _plain(value)] for name, value in values if value not in (None, []))]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return [type(node).__name__, repr(node)]


def _field(node: ast.AST, name: str) -> Any:
    value = getattr(node, name, None)
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if documented and name == "body" and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
        return value[1:]  # type: ignore[index]
    return value


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def read_pins(path: Path = PINS) -> dict[str, Pin]:
    """The pins by stage."""
    return {stage: Pin(**pin) for stage, pin in json.loads(path.read_text()).items()} if path.is_file() else {}


def problems(pins: Mapping[str, Pin], versions: Mapping[str, int], sources: Sources) -> list[str]:
    """What differs from the pins, each with the way out."""
    found = [f"stage {stage} is pinned, but there is no such stage; delete its pin" for stage in pins if stage not in versions]
    for stage, version in versions.items():
        command = f"python -m tests.recipe.stage_sources update {stage}"
        if stage not in pins:
            found.append(f"stage {stage} is not pinned; {command}")
        elif version != pins[stage].version:
            found.append(f"stage {stage} is version {version}, pinned is {pins[stage].version}; {command}")
        elif sources.digest(stage) != pins[stage].digest:
            found.append(
                f"the code behind stage {stage} changed, its version {version} did not; raise it in "
                f"athanor.recipe.graph.STAGES where results change, then {command}; "
                f'or say why they stay the same: {command} --same-result "why"'
            )
    return found


def updated(pin: Pin | None, stage: str, version: int, sources: Sources, same_result: str) -> Pin:
    """The pin of a stage as it is now. Raises ValueError when code changed without a version or a reason."""
    digest = sources.digest(stage)
    if pin is None or version > pin.version:
        return Pin(version, digest, same_result)
    if version < pin.version:
        raise ValueError(f"stage {stage} is version {version}, but {pin.version} is pinned: versions only rise")
    if digest == pin.digest:
        return pin
    if not same_result.strip():
        raise ValueError(f'stage {stage} is still version {version}: raise it, or give --same-result "why"')
    return Pin(version, digest, same_result)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, or update. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.recipe.stage_sources", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    update = commands.add_parser("update", help="pin stages as they are now")
    update.add_argument("stages", nargs="*", metavar="STAGE", help="all by default")
    update.add_argument("--same-result", default="", metavar="WHY")
    arguments = parser.parse_args(argv)
    pins, sources = read_pins(), Sources()
    versions = {stage.name: stage.version for stage in STAGES.values()}
    if arguments.command is None:
        found = problems(pins, versions, sources)
        print("\n".join(found) or "every stage is pinned as it is")
        return 1 if found else 0
    try:
        for stage in arguments.stages or versions:
            pins[stage] = updated(pins.get(stage), stage, versions[stage], sources, arguments.same_result)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kept = {stage: asdict(pins[stage]) for stage in versions if stage in pins}
    PINS.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
