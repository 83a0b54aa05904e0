"""Turns a Hugging Face folder into a Megatron checkpoint, slice by slice; larger, where a larger model is wanted."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from athanor.artifacts.files import sha256_of
from athanor.models.conversions import type_among
from athanor.models.folder_files import FolderError
from athanor.models.growth import Growth, Piece, pieces
from athanor.models.huggingface_folder import Folder
from athanor.models.origin import kept_bytes
from athanor.models.safetensors_file import DTYPES
from athanor.models.torch_dist_writer import Slice, write
from athanor.recipe.families import differences
from athanor.recipe.schema.training import Model

MAX_FILE_BYTES = 4_000_000_000
ROOM = 1.05  # of what is written must be free: index and headers come on top


@dataclass(frozen=True)
class Import:
    """What will be written, checked."""

    folder: Folder
    model: Model
    slices: tuple[Slice, ...]
    identity: str  # another folder, model or type makes another one

    @property
    def checkpoint_bytes(self) -> int:
        """Of the weights."""
        return sum(one.bytes for one in self.slices)

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(one.bytes // one.dtype.itemsize for one in self.slices)


def plan_import(folder: Folder, model: Model, seed: int, dtype: torch.dtype | None = None) -> Import:
    """How `folder` becomes a checkpoint of `model`: with more rows of vocabulary, or experts, where it has more.

    `dtype` None keeps the folder's types. `seed` draws the routers of experts made of dense layers. Raises FolderError
    with every key in which the folder is another model.
    """
    described = folder.described
    wrong = [f"model.{key}={value}: {advice}" for key, value, advice in differences(model, described.model)]
    if wrong:
        raise FolderError(folder.path, wrong)
    growth = Growth(described.model, model, described.family, seed, folder.head_beside_tied)
    listed = list(pieces(growth))
    types = _types(folder, listed)
    if dtype:
        types = {piece.megatron: type_among(piece.sources[0] if piece.sources else "", dtype) for piece in listed}
    slices = tuple(_slice(folder, piece, types[piece.megatron]) for piece in listed)
    return Import(folder, model, slices, _identity(folder, model, seed, dtype))


def write_checkpoint(plan: Import, into: Path, progress: Callable[[int, int], None]) -> dict[str, str]:
    """Fill the folder `into`, or go on filling it after a kill. The sha256 of every file by name."""
    return write(into, plan.slices, plan.identity, progress, MAX_FILE_BYTES)


def no_room(plan: Import, into: Path) -> str:
    """What is wrong with the room on the disk of `into`; empty where it suffices for checkpoint and kept files."""
    needed = ROOM * (plan.checkpoint_bytes + kept_bytes(plan.folder)) - bytes_below(into)
    return lack_of_room(into, needed)


def lack_of_room(into: Path, needed: float) -> str:
    """What is wrong where `needed` bytes do not fit on the disk of `into`, which need not exist yet."""
    there = next(parent for parent in (into, *into.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(there).free) >= needed:
        return ""
    return f"{into}: {needed / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free; make room, or choose another disk"


def bytes_below(folder: Path) -> int:
    """Of all files; none where it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _slice(folder: Folder, piece: Piece, dtype: torch.dtype) -> Slice:
    def make() -> torch.Tensor:
        return piece.make([folder.read(name) for name in piece.sources])

    return Slice(piece.megatron, piece.index, piece.shape, piece.stacked, dtype, make)


def _types(folder: Folder, listed: Sequence[Piece]) -> dict[str, torch.dtype]:
    """Each Megatron tensor has one type, wide enough for every number in it to stay as it is."""
    types: dict[str, torch.dtype] = {}
    common = DTYPES[folder.entry(listed[0].sources[0]).dtype]  # for what is drawn, the embedding's
    for piece in listed:
        for source in piece.sources:
            dtype = DTYPES[folder.entry(source).dtype]
            types[piece.megatron] = torch.promote_types(types.get(piece.megatron, dtype), dtype)
        types.setdefault(piece.megatron, common)
    return types


def _identity(folder: Folder, model: Model, seed: int, dtype: torch.dtype | None) -> str:
    files = {}
    for name, header in folder.headers.items():
        status = (folder.path / name).stat()
        files[name] = [status.st_size, status.st_mtime_ns, hashlib.sha256(header.text).hexdigest()]
    config = sha256_of(folder.path / "config.json")
    text = json.dumps([files, config, asdict(model), seed, str(dtype)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
