"""The audited generators on disk: a file each, complete or not there, so that a killed stage goes on with the next."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from athanor.artifacts.files import sha256_of, write_atomically
from athanor.artifacts.run import StageError
from athanor.rl.tasks.audit import Audit, audit_generator
from athanor.rl.tasks.generator import Generator, sandbox_of
from athanor.rl.tasks.problems import Made, Problem, make_problems
from athanor.rl.tasks.task import Task

SCHEMA_VERSION = 1
MOST_AT_ONCE = 4  # sandboxes: each has its packages in memory, 0.1 GB


@dataclass(frozen=True)
class Order:
    """What decides which problems are made: the first line of every file, so that none is without the settings it comes from."""

    seed: int
    most_tasks: int
    hardest: float  # difficulty up to which tasks are taken
    per_task: int
    walls: bool  # whether the sandbox has them


@dataclass
class Tried:
    """What was found about a generator, and the problems of its sound tasks, in the tasks' order."""

    audit: Audit
    made: list[Made]


def try_generators(
    generators: Sequence[Generator], order: Order, folder: Path, on_generator: Callable[[int, int], None]
) -> list[Tried]:
    """Audit every generator and make its problems, in files below `folder`; those of an earlier attempt are kept.

    `on_generator` is told (generators done, generators in all) and may raise; those that have begun are finished then. Raises
    StageError where a file is of another order.
    """
    paths = [folder / f"{number:03d}-{re.sub(r'[^A-Za-z0-9_]+', '-', g.name)}.jsonl" for number, g in enumerate(generators)]
    threads = ThreadPoolExecutor(min(MOST_AT_ONCE, len(os.sched_getaffinity(0))))
    try:
        trying = [threads.submit(_try_into_file, g, order, path) for g, path in zip(generators, paths, strict=True)]
        for done, tried in enumerate(as_completed(trying), start=1):
            tried.result()
            on_generator(done, len(generators))
        return [tried.result() for tried in trying]
    finally:
        threads.shutdown(cancel_futures=True)


def _try_into_file(generator: Generator, order: Order, path: Path) -> Tried:
    header = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(order), **_identity(generator)}, sort_keys=True)
    if not path.is_file():
        write_atomically(path, "".join(f"{line}\n" for line in (header, *map(json.dumps, _rows(_try(generator, order))))))
    return _read(path, header)


def _try(generator: Generator, order: Order) -> Tried:
    asked: set[str] = set()
    with sandbox_of([generator]) as sandbox:
        audit = audit_generator(sandbox, generator, order.most_tasks, order.hardest)
        made = [make_problems(sandbox, generator, task, order.per_task, order.seed, asked) for task in audit.tasks]
    return Tried(audit, made)


def _identity(generator: Generator) -> dict[str, str]:
    """Packages are pinned by the environment; a file of one's own may change."""
    return {"generator": generator.name, **({"sha256": sha256_of(generator.file)} if generator.file else {})}


def _rows(tried: Tried) -> list[dict[str, Any]]:
    """The audit, then each task with its problems."""
    return [asdict(tried.audit), *map(asdict, tried.made)]


def _read(path: Path, header: str) -> Tried:
    with path.open(encoding="utf-8") as lines:
        if (found := next(lines, "").rstrip("\n")) != header:
            raise StageError(f"{path} was made with {found or 'nothing said'}, wanted is {header}; move it away to make it anew")
        audit, *made = map(json.loads, lines)
    return Tried(_audit_of(audit), [Made(**{**row, "problems": [Problem(**one) for one in row["problems"]]}) for row in made])


def _audit_of(row: Mapping[str, Any]) -> Audit:
    tasks = [Task(t["generator"], tuple((name, level) for name, level in t["levels"]), t["difficulty"]) for t in row["tasks"]]
    return Audit(**{**row, "tasks": tasks})
