"""A small project in a temporary folder: recipes, sites, corpora and locks, independent of the checkout's own."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from athanor.recipe.loading import load_recipe
from athanor.recipe.schema.recipe import Recipe

PINS = {
    "torch": "2.13.0",
    "megatron-core": "0.16.1",
    "transformer-engine": "2.11.0",
    "deepspeed": "0.19.8",
    "bitsandbytes": "0.50.2",
    "tokenizers": "0.23.3",
    "transformers": "5.23.0",
    "safetensors": "0.8.0",
    "numpy": "2.4.6",
    "lm-eval": "0.4.13",
    "matplotlib": "3.11.2",
    "reasoning-gym": "0.1.25",
    "math-verify": "0.9.0",
    "rdkit": "2026.9.1",
    "rich": "15.0.0",
}
HASH = "sha256:" + "0" * 64

BASE: dict[str, Any] = {
    "seed": 1,
    "data": {
        "licences_allowed": ["CC0-1.0", "MIT"],
        "sources": {
            "prose": {
                "kind": "local",
                "path": "corpora/prose.txt",
                "sha256": "a" * 64,  # what it is does not matter where nothing is fetched
                "licence": "CC0-1.0",
                "domain": "encyclopedia",
                "format": "text",
                "shards": 2,
            },
            "chemistry": {
                "kind": "local",
                "path": "corpora/*.jsonl",
                "sha256": "b" * 64,
                "licence": "MIT",
                "domain": "molecules",
                "format": "jsonl",
                "template": "{text}",
                "entity": "{text}",
            },
        },
    },
    "pretrain": {
        "token_budget": "1M",
        "milestone_tokens": ["400K"],
        "mixture": {"prose": 3, "chemistry": 1},
        "decay_tokens": "200K",
        "shuffled_control": True,
    },
}


@dataclass(frozen=True)
class Project:
    """A project folder; ATHANOR_PROJECT must point at it while its recipes are read."""

    root: Path

    def write(self, name: str, data: dict[str, Any] | str, kind: str = "recipes") -> Path:
        """Write `config/recipes/NAME.yaml` from data or from text."""
        path = self.root / "config" / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
        return path

    def write_lock(self, environment: str, tag: str, pins: dict[str, str]) -> Path:
        """Write `envs/ENVIRONMENT-TAG.lock` and, beside it, the line that installs torch."""
        folder = self.root / "envs"
        folder.mkdir(exist_ok=True)
        (folder / f"torch-{environment}.txt").write_text(f"# first\ntorch=={pins['torch']}\n")
        locked = sorted(name for name in pins if name != "torch")
        path = folder / f"{environment}-{tag}.lock"
        path.write_text("".join(f"{name}=={pins[name]} \\\n    --hash={HASH}\n" for name in locked))
        return path

    def load(self, *overrides: str, name: str = "base") -> Recipe:
        """The recipe `name` with overrides."""
        return load_recipe(name, overrides)


def base() -> dict[str, Any]:
    """The data of the recipe `base`, to be changed freely."""
    return copy.deepcopy(BASE)


def put(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`data` with `value` at the dotted `path`; a number is a place in a list."""
    *sections, last = path.split(".")
    place: Any = data
    for section in sections:
        place = place[int(section)] if isinstance(place, list) else place.setdefault(section, {})
    place[last] = value
    return data


def make_project(root: Path) -> Project:
    """Two small corpora, the recipe `base`, the site `laptop`, and locks of the environments cpu and gpu."""
    project = Project(root)
    (root / "corpora").mkdir(parents=True)
    (root / "corpora" / "prose.txt").write_text("A furnace keeps one steady fire.\n")
    (root / "corpora" / "chemistry.jsonl").write_text('{"text": "CCO"}\n')
    for environment in ("cpu", "gpu"):
        for tag in ("py311", "py312"):
            project.write_lock(environment, tag, PINS)
    project.write("base", base())
    project.write("laptop", {"store": "store", "heartbeat_seconds": "1s"}, "sites")
    return project
