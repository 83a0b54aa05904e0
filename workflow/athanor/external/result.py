"""Whether what another trainer left is the start with other weights: an ordinary Hugging Face folder that can be gone on from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from athanor.models.folder_files import weight_files
from athanor.models.safetensors_file import DTYPES, Header, SafetensorsError, Shape, read_header, read_tensor
from athanor.recipe.families import CONFIG

MOST_TOLD = 5  # tensors of one kind in an error


class ResultError(Exception):
    """A folder that is no result: every reason, the tensors among them by name."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        super().__init__("\n".join([f"{folder} is not what was to be left there:", *(f"  {problem}" for problem in problems)]))


def require_weights_like(start: Path, folder: Path, mark: Callable[[], None] = lambda: None) -> None:
    """Raise ResultError unless `folder` holds a model of the type of `start`: tensors of its names and shapes, all finite.

    `mark` is called now and then: a large model takes long to read.
    """
    problems = [f"{path.name} is a link; copy what it leads to" for path in sorted(folder.rglob("*")) if path.is_symlink()]
    problems += _config(start, folder)
    tensors = _tensors(folder, problems)
    if not problems:
        problems = _differences(_shapes(_tensors(start, [])), _shapes(tensors))
    if not problems:
        for name, (path, header) in tensors.items():
            mark()
            if len(problems) < MOST_TOLD and not torch.isfinite(read_tensor(path, header, name)).all():
                problems.append(f"{name} is not finite")
    if problems:
        raise ResultError(folder, problems)


def _config(start: Path, folder: Path) -> list[str]:
    if not (folder / CONFIG).is_file():
        return [f"{CONFIG} is missing: save the model as transformers does (save_pretrained)"]
    try:
        found = json.loads((folder / CONFIG).read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        return [f"{CONFIG} is no configuration: {error}"]
    wanted = json.loads((start / CONFIG).read_text()).get("model_type")
    return [] if found == wanted else [f"{CONFIG} has model_type {found!r}, that of the start is {wanted!r}"]


def _tensors(folder: Path, problems: list[str]) -> dict[str, tuple[Path, Header]]:
    """Every tensor, with its file and that file's header."""
    found: dict[str, tuple[Path, Header]] = {}
    for name in weight_files(folder, problems):
        try:
            header = read_header(folder / name)
        except (OSError, SafetensorsError) as error:
            problems.append(f"{name}: {error}")
            continue
        found |= dict.fromkeys(header.entries, (folder / name, header))
    return found


def _shapes(tensors: Mapping[str, tuple[Path, Header]]) -> dict[str, tuple[Shape, str]]:
    return {name: (header.entries[name].shape, header.entries[name].dtype) for name, (_, header) in tensors.items()}


def _differences(start: Mapping[str, tuple[Shape, str]], found: Mapping[str, tuple[Shape, str]]) -> list[str]:
    missing = [f"{name} is missing" for name in sorted(start.keys() - found.keys())]
    more = [f"{name} is a tensor that the start does not have" for name in sorted(found.keys() - start.keys())]
    both = sorted(start.keys() & found.keys())
    shapes = [
        f"{name} has the shape {list(found[name][0])}, in the start {list(start[name][0])}"
        for name in both
        if found[name][0] != start[name][0]
    ]
    types = [f"{name} is of type {found[name][1]}; use {', '.join(DTYPES)}" for name in both if found[name][1] not in DTYPES]
    return [*missing[:MOST_TOLD], *more[:MOST_TOLD], *shapes[:MOST_TOLD], *types[:MOST_TOLD]]
