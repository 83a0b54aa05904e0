"""Recipes and sites from their files: `config/recipes/NAME.yaml`, `config/sites/NAME.yaml`, then dotted overrides."""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from athanor.recipe.consistency import inconsistencies
from athanor.recipe.fingerprint import plain
from athanor.recipe.problems import Problem, RecipeError
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site
from athanor.recipe.walker import walk

T = TypeVar("T")
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_MEANT = re.compile(r"did you mean ([\w.]+)\?")


def project_folder() -> Path:
    """The checkout: where Snakefile, config/ and envs/ stand (`ATHANOR_PROJECT` overrides it)."""
    return Path(os.environ.get("ATHANOR_PROJECT") or Path(__file__).resolve().parents[3])


@dataclass(frozen=True)
class Loaded:
    """A recipe and everything that is wrong with it."""

    recipe: Recipe
    problems: tuple[Problem, ...]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` with `overrides` (`pretrain.lr=3e-4`). Raises RecipeError with every problem."""
    loaded = read_recipe(name, overrides)
    if loaded.problems:
        raise RecipeError(f"recipe {name}", loaded.problems)
    return loaded.recipe


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Loaded:
    """As load_recipe, but with the problems returned. A file that cannot be read at all still raises."""
    problems: list[Problem] = []
    data = _read_file("recipes", name)
    _apply_overrides(data, overrides, problems)
    typed = walk(Recipe, data, "", problems)
    typed["name"] = _called(Path(name).stem if name.endswith(".yaml") else name, typed, problems)
    recipe = _build(Recipe, typed)
    problems += _not_caused_by(problems, inconsistencies(recipe, project_folder()))
    return Loaded(recipe, tuple(problems))


def _not_caused_by(reported: list[Problem], found: list[Problem]) -> list[Problem]:
    """Those of `found` that are not mere consequences: a key that could not be read stands at its default."""
    unread = {problem.key for problem in reported}
    unread |= {m[1] for problem in reported if (m := _MEANT.search(problem.advice))}
    unread |= {key.partition("[")[0] for key in unread if key.endswith("]")}  # a list without what could not be read of it
    return [problem for problem in found if not any(_bears_on(key, problem) for key in unread)]


def _bears_on(key: str, problem: Problem) -> bool:
    """Whether `problem` is about `key`, about what is in it or around it, or names it in its advice."""
    inside, around = problem.key.startswith(f"{key}."), key.startswith(f"{problem.key}.")
    return key == problem.key or inside or around or key in problem.advice


def load_resolved(path: Path) -> Recipe:
    """A recipe as `write_resolved` wrote it."""
    return _build(Recipe, yaml.safe_load(path.read_text()))


def resolved_text(recipe: Recipe) -> str:
    """The recipe with every key, as YAML."""
    return str(yaml.safe_dump(plain(recipe, "recipe"), sort_keys=False, allow_unicode=True, width=120))


def load_site(name: str) -> Site:
    """The site `name`. Raises RecipeError with every problem."""
    problems: list[Problem] = []
    typed = walk(Site, _read_file("sites", name), "", problems)
    typed["name"] = _called(name, typed, problems)  # a path stays one: jobs load the site by this name
    if problems:
        raise RecipeError(f"site {name}", problems)
    return _build(Site, typed)


def parse_set(value: object) -> list[str]:
    """The overrides of `snakemake --config set=…`: a list, or one bare string without white space."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [str(item).strip() for item in value]
    text = str(value).strip()
    if any(c.isspace() for c in text):
        pieces = ",".join(text.split())
        advice = f"white space does not separate overrides; write the list form: --config set='[{pieces}]'"
        raise RecipeError("set", [Problem("set", text, advice)])
    return [text]


def _called(name: str, typed: dict[str, Any], problems: list[Problem]) -> str:
    """`name`, from the file's; a key `name` that says otherwise is a problem."""
    if (given := typed.get("name", name)) != name:
        problems.append(Problem("name", given, f"is the file's own name, {name}; leave the key out (campaign= names a campaign)"))
    return name


def _build(schema: type[T], typed: dict[str, Any]) -> T:
    merged = OmegaConf.merge(_defaults(schema), _literal(typed))  # type: ignore[arg-type]  # classes are hashable
    built = OmegaConf.to_object(merged)
    assert isinstance(built, schema)
    return built


@cache
def _defaults(schema: type) -> DictConfig:
    """`schema` for OmegaConf, which takes 9 ms to make; merging copies it."""
    defaults: DictConfig = OmegaConf.structured(schema)
    return defaults


def _literal(value: Any) -> Any:
    """`value` with what OmegaConf would take for an interpolation escaped: files are resolved by then."""
    if isinstance(value, dict):
        return {k: _literal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_literal(v) for v in value]
    return _INTERPOLATION.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def _read_file(kind: str, name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The file's data with what it extends merged below it, and its lock (`NAME.lock.yaml`) above."""
    folder = project_folder() / "config" / kind
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    what = kind[:-1]
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml") if not p.name.endswith(".lock.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        wanted = name if name.endswith(".yaml") else f"config/{kind}/{name}.yaml"
        raise RecipeError(f"{what} {name}", [Problem(what, name, f"no file {wanted}{hint}")])
    data = _parse(path, f"{what} {name}")
    base = data.pop("extends", None)
    if base is not None:
        if base in (*seen, name):
            raise RecipeError(f"{what} {name}", [Problem("extends", base, "extends itself in a circle")])
        below = _read_file(kind, str(base), (*seen, name))
        below.pop("name", None)  # a name is its own file's alone
        data = _merge(below, data)
    lock = path.with_suffix(".lock.yaml")
    return _merge(data, _parse(lock, f"{what} {name}")) if lock.is_file() else data


def _parse(path: Path, title: str) -> dict[str, Any]:
    """One file's mapping, interpolations resolved. Raises RecipeError."""
    try:
        data = OmegaConf.to_container(OmegaConf.load(path), resolve=True) or {}
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(title, [Problem(path.name, None, f"is not valid YAML: {reason}")]) from error
    if not isinstance(data, dict):
        raise RecipeError(title, [Problem(path.name, None, "expected `key: value` lines")])
    return {str(k): v for k, v in data.items()}


def _merge(below: dict[Any, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _apply_overrides(data: dict[str, Any], overrides: Sequence[str], problems: list[Problem]) -> None:
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            problems.append(Problem("set", text, "an override reads key=value, such as pretrain.lr=3e-4"))
            continue
        *sections, last = path.strip().split(".")
        place: Any = data
        for name in sections:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                problems.append(Problem(path, value, f"{name} is not a section"))
                break
        else:
            place[last] = value.strip()
