"""Online RL that another trainer does: its command, what of `online` counts for it, and what decides its result."""

import shlex
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from athanor.recipe.command_template import problem_with_template
from athanor.recipe.fingerprint import flatten
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.online import External, Online
from athanor.recipe.schema.recipe import Recipe

HANDOVER = "handover"  # the field of the command
TOLD = ("token_budget", "sequence_length", "prompts", "samples", "max_new_tokens")  # in the handover, beside mixture and settings
OF_THE_POOL = ("start", "problems", "routes", "pool", "probes", "filter", "ngram", "watched")
COUNT = (*TOLD, "mixture", *OF_THE_POOL, "parallel.ranks", "controls", "external", "average")


def is_handed_over(r: Recipe) -> bool:
    """Whether another trainer makes the model of online RL."""
    return r.learns_online and bool(r.online.external.command)


def trains_online(r: Recipe) -> bool:
    """Whether Athanor's own trainer makes a model of online RL: the model itself, or controls of it."""
    return r.learns_online and (not r.online.external.command or bool(r.online.controls))


def external_section(r: Recipe, project: Path) -> dict[str, Any]:
    """What decides what another trainer learns, as far as the recipe knows: what it is told, and the bytes of its files."""
    o = r.online
    section = {"seed": r.seed, **{f"online.{name}": getattr(o, name) for name in TOLD}, **flatten(o.mixture, "online.mixture")}
    section |= {"online.external.command": o.external.command, "online.external.settings": o.external.settings}
    return section | {f"online.external.files.{path}": digest for path, digest in file_digests(o.external, project).items()}


def file_digests(external: External, project: Path) -> dict[str, str]:
    """sha256 of every file of the trainer; of one that is missing, which the check tells, empty."""
    paths = {path: project / path for path in sorted(set(external.files))}
    return {path: sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for path, file in paths.items()}


def illegal_external(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with `online.external`, and what of `online` would not count beside it."""
    o, e, where = r.online, r.online.external, "online.external"
    if not r.learns_online:
        return
    if not e.command:
        for name in ("files", "version", "settings"):
            if value := getattr(e, name):
                yield Problem(f"{where}.{name}", value, f"belongs to no trainer; give {where}.command, or leave it out")
        return
    if problem := problem_with_template(e.command, (HANDOVER,), {HANDOVER}):
        yield Problem(f"{where}.command", e.command, problem)
    try:
        shlex.split(e.version)
    except ValueError as error:
        yield Problem(f"{where}.version", e.version, f"cannot be read: {error}")
    for task, route in o.routes.items():
        if route is not Route.VERIFIER:
            advice = f"with {where}.command verifiers alone tell what an answer is worth; use verifier, or leave the task out"
            yield Problem(f"online.routes.{task}", route.value, advice)
    if o.average:
        yield Problem("online.average", o.average, f"{where}.command trains, and keeps no weights of its rounds; use 0")
    if not o.controls:
        yield from _uncounted(o)


def _uncounted(o: Online) -> Iterator[Problem]:
    """Keys that only Athanor's own trainer reads, which trains nothing here."""
    usual = flatten(Online(), "online")
    counts = tuple(f"online.{name}" for name in COUNT)
    for name, value in flatten(o, "online").items():
        if value != usual.get(name) and not any(name == known or name.startswith(f"{known}.") for known in counts):
            advice = "Athanor's trainer alone goes by it, and online.external.command trains; say it in online.external.settings"
            yield Problem(name, value, f"{advice}, and leave it out here")


def illegal_external_files(r: Recipe, project: Path) -> Iterator[Problem]:
    """Files of the trainer that are not there, and those that its command names and its identity would not know."""
    e, where = r.online.external, "online.external"
    if not is_handed_over(r):
        return
    for number, path in enumerate(e.files):
        if not (project / path).is_file():
            yield Problem(f"{where}.files[{number}]", path, f"no such file; relative paths start at {project}")
    try:
        words = shlex.split(e.command)
    except ValueError:  # which is told of the command itself
        return
    for word in words:
        if word not in e.files and not Path(word).is_absolute() and (project / word).is_file():
            advice = f"{word} is a file of the project, and what it holds decides what is learnt; name it here"
            yield Problem(f"{where}.files", e.files, advice)
