"""Every field of a schema with its place in a file, so that tests need not list keys by hand."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from athanor.recipe.loading import read_recipe
from tests.recipe.projects import Project, base, put

INSTANCES = {
    "sources": "prose",
    "resources": "default",
    "batch_switches": "0",
    "tasks": "ask",
    "turns": "0",
    "corpus": "chemistry",
}  # as tests write them
SWITCH = {"at_tokens": "200K", "batch_tokens": "4096"}
SFT = {
    "decay_tokens": "200K",
    "mixture": {"ask": 1},
    "tasks": {
        "ask": {
            "source": "prose",
            "turns": [{"prompts": ["What of {path}?"], "response": "{text}"}],
            "taxonomy": ["language", "reading", "recall"],
        }
    },
    "search": {"token_budget": "200K"},
    "labels": {"by": "ask", "tasks": ["ask"], "repeats": {"hard": 2}},
}

OFFLINE = {"decay_tokens": "200K", "mixture": {"ask": 1}, "milestone_tokens": ["600K"], "average": 2}
ONLINE = {
    "decay_tokens": "200K",
    "token_budget": 655_360,
    "mixture": {"ask": 1, "problems": 1},
    "routes": {"ask": "verifier"},
    "problems": {"generators": ["gcd", "ring_count"], "corpus": {"chemistry": {"smiles": "{smiles}"}}},
}
PREFERENCE = {"decay_tokens": "200K", "kind": "dpo"}


ON_PAIRS = {"token_budget": "1M", "sequence_length": 256, "batch_tokens": 2048, "lr": 1e-4, "decay_tokens": "200K"}
REWARD = {"prefixes": 8, "longest_prefix": 16, "max_new_tokens": 64, "pretrain": ON_PAIRS, "tune": dict(ON_PAIRS)}


def with_entries(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's data with one entry in every list and table that the schema has entries for."""
    data["sft"], data["offline"], data["preference"] = copy.deepcopy(SFT), copy.deepcopy(OFFLINE), copy.deepcopy(PREFERENCE)
    data["reward"], data["online"] = copy.deepcopy(REWARD), copy.deepcopy(ONLINE)
    data["pretrain"]["milestone_tokens"] = ["400K", "600K"]  # models enough for both sides of the reward model's split
    for section in ("pretrain", "sft", "offline", "preference"):
        data[section]["batch_switches"] = [dict(SWITCH)]
    data["online"]["batch_switches"] = [{"at_tokens": 131_072, "batch_tokens": "4096"}]  # behind two rounds
    for section in ("pretrain", "tune"):
        data["reward"][section]["batch_switches"] = [dict(SWITCH)]
    return data


def problems_with(project: Project, changes: Mapping[str, Any]) -> list[str]:
    """What the check says of a recipe with every section, and `changes` by dotted path in it."""
    data = with_entries(base())
    for path, value in changes.items():
        put(data, path, value)
    project.write("bad", data)
    return [str(problem) for problem in read_recipe("bad").problems]


@dataclass(frozen=True)
class Place:
    """One field: `path` as it is written in a file (`a.0.b`), `shown` as problems name it (`a[0].b`)."""

    path: str
    shown: str
    hint: Any
    field: Field[Any]

    @property
    def name(self) -> str:
        """The field's own name."""
        return self.field.name

    @property
    def section(self) -> str:
        """The section as problems name it, with the dot behind it; empty at the top."""
        return self.shown[: len(self.shown) - len(self.name)]

    def bound(self, name: str) -> Any:
        """`low`, `high`, `above` or `unit` of the field, or None."""
        return self.field.metadata.get(name)


def places(schema: type, path: str = "", shown: str = "") -> Iterator[Place]:
    """The fields of `schema` and, below them, of every dataclass in it."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        place = Place(f"{path}{field.name}", f"{shown}{field.name}", hints[field.name], field)
        yield place
        hint, arguments = place.hint, get_args(place.hint)
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from places(hint, f"{place.path}.", f"{place.shown}.")
        elif arguments and is_dataclass(arguments[-1]) and isinstance(arguments[-1], type):
            name = INSTANCES[field.name]
            inside = f"{place.shown}[{name}]." if get_origin(hint) is list else f"{place.shown}.{name}."
            yield from places(arguments[-1], f"{place.path}.{name}.", inside)
