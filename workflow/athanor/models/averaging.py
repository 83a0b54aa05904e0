"""The mean of the weights of several Hugging Face folders of one model: checkpoints of one training, a way apart.

Averages of the last checkpoints stand in for the end of a learning rate's decay (Izmailov et al. 2018; Sanyal et al. 2023).
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from athanor.models.folder_files import weight_files


class AveragingError(Exception):
    """Folders whose weights are not of one model: what differs, and where."""


def average_folders(folders: Sequence[Path], into: Path, progress: Callable[[int, int], None]) -> list[str]:
    """Write the folder `into`: the last one's files, with the mean of all folders' weights, each weighing the same.

    Sums are float64, weights are written in the type they have. A weight file that is there already is whole, and kept, so what
    was killed goes on. Memory: one weight file of one folder. Returns the names of all files. Raises AveragingError.
    """
    into.mkdir(parents=True, exist_ok=True)
    names = [_weights_of(folder) for folder in folders]
    shards = names[-1]
    for place, folder in enumerate(folders[:-1]):
        if names[place] != shards:
            raise AveragingError(f"{folder} has weight files {names[place]}, {folders[-1]} has {shards}: export both alike")
    for path in sorted(folders[-1].iterdir()):
        if path.name not in shards and path.is_file():
            shutil.copyfile(path, into / path.name)
    for done, name in enumerate(shards):
        progress(done, len(shards))
        if not (into / name).is_file():
            partial = into / f".{name}.partial"
            save_file(_mean_of([folder / name for folder in folders]), partial, metadata={"format": "pt"})
            os.replace(partial, into / name)
    progress(len(shards), len(shards))
    return sorted(path.name for path in into.iterdir())


def _weights_of(folder: Path) -> list[str]:
    problems: list[str] = []
    names = weight_files(folder, problems)
    if problems:
        raise AveragingError(f"{folder}: {'; '.join(problems)}")
    return names


def _mean_of(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The weights of one file, one by one from all folders."""
    readers = [safe_open(file, "pt") for file in files]
    keys = sorted(readers[-1].keys())
    for file, reader in zip(files, readers, strict=True):
        if odd := set(reader.keys()) ^ set(keys):
            raise AveragingError(f"{file} and {files[-1]} differ in {', '.join(sorted(odd)[:5])}: they are not of one model")
    means = {}
    for key in keys:
        weights = [reader.get_tensor(key) for reader in readers]
        shapes = {tuple(weight.shape) for weight in weights}
        if len(shapes) > 1:
            raise AveragingError(f"{key} has shapes {sorted(shapes)} in {', '.join(map(str, files))}: they are not of one model")
        total = weights[0].double()
        for weight in weights[1:]:
            total += weight
        means[key] = (total / len(weights)).to(weights[-1].dtype)
    return means
