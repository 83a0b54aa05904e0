"""The Hugging Face folders that a recipe brings along: pretraining's start and the reward model's backbone, and their rules."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from athanor.recipe.families import CONFIG, LOSS_FREE, ConfigError, Described, differences, read_config
from athanor.recipe.law import parameters
from athanor.recipe.problems import Problem
from athanor.recipe.reward_training import too_large
from athanor.recipe.schema.recipe import Recipe

START, BACKBONE = "pretrain.init_from", "reward.backbone"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Folder:
    """A folder by the key that names it; `sha256` is what the recipe was locked to."""

    key: str
    path: str
    sha256: str

    @property
    def floats(self) -> bool:
        """Whether it is left open what the folder holds."""
        return bool(self.path) and not self.sha256


def folders(r: Recipe) -> tuple[Folder, Folder]:
    """Both, named or not."""
    return (
        Folder(START, r.pretrain.init_from, r.pretrain.init_from_sha256),
        Folder(BACKBONE, r.reward.backbone, r.reward.backbone_sha256),
    )


def illegal_folders(r: Recipe, project: Path) -> Iterator[Problem]:
    """Everything wrong with them; `project` is where their paths start."""
    for folder in folders(r):
        if folder.sha256 and not folder.path:
            yield Problem(f"{folder.key}_sha256", folder.sha256, f"there is no {folder.key}; leave it out")
        if folder.sha256 and folder.path:
            yield from not_sha256(f"{folder.key}_sha256", folder.sha256)
        if folder.floats:
            yield Problem(folder.key, folder.path, f"floats (no sha256); lock it: athanor recipe lock {r.name}")
        if folder.path:
            yield from _unfit(r, folder, project / folder.path)


def not_sha256(where: str, text: str) -> Iterator[Problem]:
    """Unless it is one, or empty."""
    if text and not (len(text) == 64 and set(text) <= set("0123456789abcdef")):
        yield Problem(where, text, "expected 64 hexadecimal digits")


def _unfit(r: Recipe, folder: Folder, path: Path) -> Iterator[Problem]:
    try:
        described = read_config(path)
    except ConfigError as error:
        for problem in error.problems:
            yield Problem(folder.key, folder.path, f"{CONFIG}: {problem}")
        return
    if not (path / TOKENIZER).is_file():
        yield Problem(folder.key, folder.path, f"has no {TOKENIZER}, and its weights know no other tokenizer; save it there")
    if folder.key == START:
        for key, value, advice in differences(r.model, described.model):
            yield Problem(f"model.{key}", value, f"{advice} ({folder.key}={folder.path})")
    else:
        yield from _no_backbone(r, folder, described, path)


def _no_backbone(r: Recipe, folder: Folder, described: Described, path: Path) -> Iterator[Problem]:
    """Why the folder is none to train a reward model from."""
    if described.family.has_other_parts or described.family.layers == LOSS_FREE:
        advice = f"{described.family.architecture} has no head for scores in transformers; use a Qwen3 or Qwen3-MoE"
        yield Problem(folder.key, folder.path, advice)
    if (weights := parameters(described.model)) and (advice := too_large(weights)):
        yield Problem(folder.key, folder.path, advice)
    if not _pads(path / TOKENIZER_CONFIG):
        yield Problem(folder.key, folder.path, f"its {TOKENIZER_CONFIG} names no pad_token; name one")
    trainings = {"reward.pretrain": r.reward.pretrain, "reward.tune": r.reward.tune}
    for section, settings in trainings.items():
        if not settings.token_budget:
            continue
        for key in ("lr", "batch_tokens"):
            if not getattr(settings, key):
                advice = f"POLAR's law knows this recipe's own model, and not how {folder.key} was trained; say what it shall be"
                yield Problem(f"{section}.{key}", 0, advice)
        if settings.sequence_length > (room := described.model.max_sequence_length):
            yield Problem(f"{section}.sequence_length", settings.sequence_length, f"{folder.key} takes at most {room}")


def _pads(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()).get("pad_token"))
    except (OSError, ValueError, AttributeError):
        return False
