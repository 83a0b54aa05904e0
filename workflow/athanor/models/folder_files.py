"""Which files make a Hugging Face folder the model that it is, and one hash over them; without torch, as on a login node."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from athanor.artifacts.files import sha256_of
from athanor.recipe.families import CONFIG

INDEX_FILE = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"
MODEL_FOLDER = "model"  # of an artifact that holds such a folder
POINTS_FOLDER = "points"  # of a stage: models on the way to its own, by name, each with a MODEL_FOLDER
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = ("special_tokens_map.json", "chat_template.jinja", "vocab.json", "merges.txt", "added_tokens.json")


class FolderError(Exception):
    """A folder that does not convert; `problems` has every reason."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("\n".join([f"{folder} does not convert: {count}", *(f"  {problem}" for problem in problems)]))


def digest(path: Path, progress: Callable[[int, int], None]) -> str:
    """sha256 over the names and contents of config, index, tokenizer and weight files: which model a folder holds.

    `progress` is told (bytes hashed, bytes in all). Raises FolderError where the index or the weights are not there.
    """
    files = model_files(path)
    total, done, hashed = sum(file.stat().st_size for file in files), 0, hashlib.sha256()
    for file in files:
        progress(done, total)
        hashed.update(f"{file.name}\0{sha256_of(file)}\n".encode())
        done += file.stat().st_size
    progress(total, total)
    return hashed.hexdigest()


def model_files(path: Path) -> list[Path]:
    """The files of a folder that decide which model it is, by name. Raises FolderError where index or weights are not there."""
    problems: list[str] = []
    names = [CONFIG, INDEX_FILE, *TOKENIZER_FILES, *OPTIONAL_TOKENIZER_FILES, *weight_files(path, problems)]
    if problems:
        raise FolderError(path, problems)
    return [path / name for name in sorted(set(names)) if (path / name).is_file()]


def require_digest(path: Path, expected: str, progress: Callable[[int, int], None], key: str) -> None:
    """Raise FolderError where the folder is not what the recipe was locked to by `key`_sha256."""
    if (found := digest(path, progress)) != expected:
        advice = "bring back the old files, or run `athanor recipe lock` after taking the old line out of the lock file"
        problem = f"sha256 of its files is {found}, {key}_sha256 is {expected}: the folder changed; {advice}"
        raise FolderError(path, [problem])


def weight_files(path: Path, problems: list[str]) -> list[str]:
    """Names of the weight files, by the index or the one file's own."""
    if not (path / INDEX_FILE).is_file():
        if (path / ONE_FILE).is_file():
            return [ONE_FILE]
        pickled = sorted(p.name for p in path.glob("*.bin"))
        hint = f"; {pickled[0]} is a pickle: save the model again with safe_serialization=True" if pickled else ""
        problems.append(f"neither {INDEX_FILE} nor {ONE_FILE}{hint}")
        return []
    try:
        return sorted(set(json.loads((path / INDEX_FILE).read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{INDEX_FILE} is no index ({error}); copy it again")
        return []
