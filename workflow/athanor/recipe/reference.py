"""The reference of every key, written from the schema: `python -m athanor.recipe.reference > config/README.md`."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from inspect import getdoc
from typing import Any, get_args, get_origin, get_type_hints

from athanor.recipe.fingerprint import plain
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site
from athanor.recipe.units import EXAMPLES, Unit, format_quantity

INTRODUCTION = """\
# Recipes and sites

A **recipe** (`recipes/NAME.yaml`) says what is trained; a **site** (`sites/NAME.yaml`) says where it runs. One campaign
is one recipe at one site:

    snakemake --config recipe=tiny site=laptop

Both are plain YAML. A key that is left out has the default of the tables below; a key that does not exist, or a value
of the wrong type, unit or size, is a problem. All problems of a file come in one report, before anything starts:

    athanor recipe check tiny        every problem, one a line; exit code 1 if there is any
    athanor recipe show tiny         the recipe with every key
    athanor recipe diff tiny h100    the keys that differ, and the stages that are not shared

**extends.** `extends: tiny` at the top of a file takes everything from `recipes/tiny.yaml` and lays the file's own keys
over it. Sections are merged key by key; lists and values are replaced. A base may extend another. Sites extend sites.
Inside one file, `${model.vocab_size}` repeats a value that stands elsewhere in it; a shell's variable is `$HOME`, or
`\\${HOME}` with a backslash before it.

**Overrides.** `set` changes keys for one campaign; give the same words to `athanor`. Several go in a list:

    snakemake --config recipe=tiny set=pretrain.lr=1e-3
    snakemake --config recipe=tiny set='[pretrain.lr=1e-3,seed=2,pretrain.milestone_tokens=[200K]]'
    athanor plan --recipe tiny --set pretrain.lr=1e-3

An artifact's folder is named after the meaning of the keys that decide its result. So a changed key makes new artifacts
beside the old ones, reruns what depends on it and nothing else, and going back finds everything still there.
`athanor plan` says what would run and why.

**Locks.** A source without an exact `version` and `sha256` floats, and `check` stops it. `athanor recipe lock NAME` looks
both up and writes them to `recipes/NAME.lock.yaml`, which is laid over the recipe; commit it beside the recipe. It does
the same for the folder of `pretrain.init_from`, whose files it hashes.

**Environments.** `environment` names lock files in `envs/` (`envs/cpu-py311.lock` and its like). The versions of the
packages that bear on a stage's result are part of its identity; those of all others are not.

**Sites.** On a new cluster's login node:

    athanor site init MYCLUSTER                    drafts sites/MYCLUSTER.yaml from sinfo, scontrol and sacctmgr
    athanor doctor --site MYCLUSTER --recipe h100  checks it against the cluster and this machine; exit code 1 on an error
    snakemake --config recipe=h100 site=MYCLUSTER  or set ATHANOR_SITE=MYCLUSTER

The draft marks with DECIDE what only a person knows; `sites/slurm.yaml` is a shorter one to copy. `doctor` asks Slurm
whether it would take the very jobs of the recipes, and looks at nodes from inside through small jobs, which it cancels
and whose files it removes (`--quick` leaves them out). Nothing in a site file changes what is computed.

**Living on a node.** `scratch` is made on every node and becomes TMPDIR of the stage; `$USER`, `$SLURM_JOB_ID` and other
variables in it are the job's, and one that the job does not have is an error. `network_interface` is exported for gloo
and NCCL; `environment` overrules it. `secrets` names a file of `NAME=VALUE` lines (a line with `#` is a comment, quotes
around a value are dropped). Every rank reads it on its node into the environment of the stage's process just before the
stage starts, so nothing of it stands in a batch script, a log, the list of processes or a tracking record. A file that is
missing, or that group or others have access to, is refused. `install -m 600 /dev/null ~/.athanor/secrets` makes one; a
container must have its folder bound.

**Quantities.** A plain number counts the unit itself; a suffix scales it.

"""

NOTE = "\n---\nWritten from the schema by `python -m athanor.recipe.reference > config/README.md`; change it there.\n"


def reference() -> str:
    """The whole page, as Markdown."""
    examples = {unit: EXAMPLES[unit].replace(", ", "`, `").replace(" or ", "` or `") for unit in Unit}
    quantities = "".join(f"- {unit.value}: `{shown}`\n" for unit, shown in examples.items())
    recipe = "\n".join(_sections(Recipe, "", "The recipe"))
    site = "\n".join(_sections(Site, "", "The site"))
    return f"{INTRODUCTION}{quantities}\n{recipe}\n{site}{NOTE}"


def _sections(schema: type, path: str, title: str) -> Iterator[str]:
    """The table of `schema`, then those of the dataclasses in it."""
    hints, inner = get_type_hints(schema), []
    yield f"## {title}\n\n{getdoc(schema)}\n"
    yield "| key | type | default | bounds | meaning |\n|---|---|---|---|---|"
    for field in fields(schema):
        hint = hints[field.name]
        yield f"| `{field.name}` | {_type(hint, field)} | {_default(hint, field)} | {_bounds(field)} | {_doc(field)} |"
        if below := _schema_in(hint):
            many = {dict: f"{path}{field.name}.NAME", list: f"{path}{field.name}[i]"}
            inner.append((below, many.get(get_origin(hint), f"{path}{field.name}")))
    yield ""
    for below, where in inner:
        yield from _sections(below, f"{where}.", f"`{where}`")


def _schema_in(hint: Any) -> type | None:
    """The dataclass that is, or fills, `hint`."""
    return next((t for t in (hint, *get_args(hint)) if is_dataclass(t) and isinstance(t, type)), None)


def _type(hint: Any, field: Field[Any]) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        return f"list of {_type(arguments[0], field)}"
    if origin is dict:
        return f"{_type(arguments[1], field)} by name"
    if is_dataclass(hint):
        return "section"
    if hint is Any:
        return f"text, number, true or false, {'a section, ' if field.metadata['nested'] else ''}or a list"
    if issubclass(hint, StrEnum):
        return " \\| ".join(f"`{choice}`" for choice in hint)
    if unit := field.metadata["unit"]:
        return str(unit.value)
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]


def _default(hint: Any, field: Field[Any]) -> str:
    if field.metadata["required"]:
        return "required"
    if is_dataclass(hint):
        return "see below"
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if field.metadata["unit"] and isinstance(value, int) and value:
        return f"`{format_quantity(value, field.metadata['unit'])}`"
    value = plain(value, field.name)
    if value in ("", [], {}):
        return "empty"
    if isinstance(value, list):
        return ", ".join(f"`{_escape(item)}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else _escape(value)}`"


def _bounds(field: Field[Any]) -> str:
    low, high, above, unit = (field.metadata[name] for name in ("low", "high", "above", "unit"))

    def shown(bound: float) -> str:
        if unit and bound:
            return format_quantity(int(bound), unit)
        return f"{bound:_}" if isinstance(bound, int) else f"{bound:g}"

    parts = [f"≥ {shown(low)}"] if low is not None else [f"> {shown(above)}"] if above is not None else []
    return ", ".join(parts + ([f"≤ {shown(high)}"] if high is not None else []))


def _doc(field: Field[Any]) -> str:
    return _escape(field.metadata["doc"])


def _escape(text: object) -> str:
    return str(text).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
