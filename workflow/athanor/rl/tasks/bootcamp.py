"""Tasks of one's own, in the interface of InternBootcamp: a class with `case_generator`, `prompt_func` and `verify_score`.

A generator is named `FILE.py:Class`. Two things are ours: `levels`, a class attribute (attribute → the values that the
constructor takes by this name, easiest first), and `solve`, which gives an answer that is right: without one nothing can be
audited. All functions run in the sandbox, as those of gym.py do.
"""

import importlib.util
import inspect
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

Entry = dict[str, Any]
# For what is short, or has no thoughts; here the whole answer is judged, and rules of form are rewards of their own.
_LENIENT = {"short_penalty": False, "format_penalty": False}


def attributes(generator: str) -> dict[str, int]:
    """How many levels each attribute has."""
    return {name: len(values) for name, values in getattr(_camp(generator), "levels", {}).items()}


def generate(generator: str, levels: Mapping[str, int], seed: int, count: int, first: int = 0) -> list[Entry]:
    """`count` problems at these levels from number `first` on; `case` of each is what the verifier wants.

    The seed is that of `random`, by problem.
    """
    camp = _camp(generator)
    chosen = camp(**{name: camp.levels[name][level] for name, level in levels.items()})
    found = []
    for number in range(first, first + count):
        random.seed(f"{seed}:{number}")
        case = json.loads(json.dumps(chosen.case_generator()))
        answer = camp.solve(case) if hasattr(camp, "solve") else None
        found.append({"question": chosen.prompt_func(case), "answer": answer, "case": case})
    return found


def score(generator: str, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """What the class's own verifier gives; a bool counts as a number, an exception by its name."""
    camp = _camp(generator)
    taken = inspect.signature(camp.verify_score).parameters
    lenient = {name: value for name, value in _LENIENT.items() if name in taken}
    found: list[float | str] = []
    for answer, entry in zip(answers, entries, strict=True):
        try:
            found.append(float(camp.verify_score(answer, entry["case"], **lenient)))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def _camp(generator: str) -> Any:
    path, _, name = generator.rpartition(":")
    return getattr(_module(path), name)


def _module(path: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    if specification is None or specification.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
