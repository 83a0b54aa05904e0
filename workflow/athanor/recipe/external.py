"""Training that another trainer does: its command, what of the recipe's section counts for it, and what decides its result."""

import shlex
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from athanor.recipe.command_template import problem_with_template
from athanor.recipe.fingerprint import flatten
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import Route
from athanor.recipe.schema.external import External
from athanor.recipe.schema.online import Online
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Pretrain, Training
from athanor.recipe.sections import model_section

HANDOVER = "handover"  # the field of the command
TOLD = ("token_budget", "sequence_length", "prompts", "samples", "max_new_tokens")  # in the handover, beside mixture and settings
OF_THE_POOL = ("start", "problems", "routes", "pool", "probes", "filter", "ngram", "watched")
COUNT = (*TOLD, "mixture", *OF_THE_POOL, "parallel.ranks", "controls", "external", "average")
MEASURED = ("validation_tokens", "precision", "bf16_first_layers", "bf16_last_layers")  # how Athanor looks at what was made
PRETRAIN_TOLD = ("sequence_length", "mixture")
PRETRAIN_COUNT = (
    *PRETRAIN_TOLD,
    *MEASURED,
    "milestone_tokens",
    "token_budget",
    "init_from",
    "init_from_sha256",
    "parallel",
    "average",
    "shuffled_control",
    "external",
)


def is_handed_over(r: Recipe) -> bool:
    """Whether another trainer makes the model of online RL."""
    return r.learns_online and bool(r.online.external.command)


def trains_online(r: Recipe) -> bool:
    """Whether Athanor's own trainer makes a model of online RL: the model itself, or controls of it."""
    return r.learns_online and (not r.online.external.command or bool(r.online.controls))


def trains_pretraining(r: Recipe) -> bool:
    """Whether Athanor's own trainer makes a milestone, or the control on shuffled tokens."""
    return not r.pretrain.external.command or r.pretrain.shuffled_control


def external_section(r: Recipe, project: Path) -> dict[str, Any]:
    """What decides what another trainer learns, as far as the recipe knows: what it is told, and the bytes of its files."""
    o = r.online
    section = {"seed": r.seed, **{f"online.{name}": getattr(o, name) for name in TOLD}, **flatten(o.mixture, "online.mixture")}
    return section | _trainer(o.external, "online", project)


def external_pretrain_section(r: Recipe, end_tokens: int, project: Path) -> dict[str, Any]:
    """As `external_section`, of a milestone; and what decides its losses of held-out text."""
    p = r.pretrain
    domains = {f"domains.{name}": r.data.sources[name].domain for name in p.mixture}
    section = {"seed": r.seed, "end_tokens": end_tokens, **domains, **model_section(r), **flatten(p.mixture, "pretrain.mixture")}
    section |= {f"pretrain.{name}": getattr(p, name) for name in ("sequence_length", *MEASURED)}
    return section | _trainer(p.external, "pretrain", project)


def _trainer(external: External, name: str, project: Path) -> dict[str, Any]:
    section = {f"{name}.external.command": external.command, f"{name}.external.settings": external.settings}
    return section | {f"{name}.external.files.{path}": digest for path, digest in file_digests(external, project).items()}


def file_digests(external: External, project: Path) -> dict[str, str]:
    """sha256 of every file of the trainer; of one that is missing, which the check tells, empty."""
    paths = {path: project / path for path in sorted(set(external.files))}
    return {path: sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for path, file in paths.items()}


def illegal_external(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with the sections that another trainer is to train, and what of them would not count beside it."""
    p, o, where = r.pretrain, r.online, "online.external"
    yield from _illegal_command(p.external, "pretrain.external")
    if p.external.command and not p.shuffled_control:
        yield from _uncounted(p, Pretrain(), "pretrain", PRETRAIN_COUNT)
    if not r.learns_online:
        return
    yield from _illegal_command(o.external, where)
    if not o.external.command:
        return
    for task, route in o.routes.items():
        if route is not Route.VERIFIER:
            advice = f"with {where}.command verifiers alone tell what an answer is worth; use verifier, or leave the task out"
            yield Problem(f"online.routes.{task}", route.value, advice)
    if o.average:
        yield Problem("online.average", o.average, f"{where}.command trains, and keeps no weights of its rounds; use 0")
    if not o.controls:
        yield from _uncounted(o, Online(), "online", COUNT)


def _illegal_command(e: External, where: str) -> Iterator[Problem]:
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


def _uncounted(settings: Training, default: Training, where: str, count: Sequence[str]) -> Iterator[Problem]:
    """Keys that only Athanor's own trainer reads, which trains nothing here."""
    usual, trainer = flatten(default, where), f"{where}.external"
    counts = tuple(f"{where}.{name}" for name in count)
    for name, value in flatten(settings, where).items():
        if value != usual.get(name) and not any(name == known or name.startswith(f"{known}.") for known in counts):
            advice = f"Athanor's trainer alone goes by it, and {trainer}.command trains; say it in {trainer}.settings"
            yield Problem(name, value, f"{advice}, and leave it out here")


def illegal_external_files(r: Recipe, project: Path) -> Iterator[Problem]:
    """Files of the trainer that are not there, and those that its command names and its identity would not know."""
    if is_handed_over(r):
        yield from _illegal_files(r.online.external, "online.external", project)
    if r.pretrain.external.command:
        yield from _illegal_files(r.pretrain.external, "pretrain.external", project)


def _illegal_files(e: External, where: str, project: Path) -> Iterator[Problem]:
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
