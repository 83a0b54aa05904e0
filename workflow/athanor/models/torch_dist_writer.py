"""Writes a Megatron checkpoint slice by slice: one process, no process group, no model, the memory of one slice.

What comes out is what megatron.core.dist_checkpointing writes (`torch_dist`), so it loads into any layout. torch's own
FileSystemWriter is not used: it keeps the last slice of every tensor until its file is done, and cannot continue after a
kill. Here every finished file stays, with a note of what is where in it, and the hash is taken while writing.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from athanor.artifacts.files import sha256_of, write_json
from athanor.models.torch_dist import COMPLETE, CONTENT

INDEX, COMMON, PLAN = ".metadata", "common.pt", ".plan.json"


@dataclass(frozen=True)
class Slice:
    """One part of a tensor that is written whole: `tensor[index[0], index[1], …]`, made when its turn comes."""

    tensor: str
    index: tuple[int, ...]
    shape: tuple[int, ...]  # of the slice
    stacked: tuple[int, ...]  # of the whole tensor
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Its numbers' size."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def chunk(self) -> ChunkStorageMetadata:
        """Where it is in the whole tensor."""
        offsets = (*self.index, *(0 for _ in self.shape))
        return ChunkStorageMetadata(torch.Size(offsets), torch.Size((*(1 for _ in self.index), *self.shape)))


def write(
    folder: Path,
    slices: Iterable[Slice],
    identity: str,
    progress: Callable[[int, int], None],
    max_file_bytes: int,
) -> dict[str, str]:
    """Fill `folder` with a checkpoint of `slices`; the sha256 of every file by name.

    Finished files of an interrupted call with the same `identity` (a name for what is written) are kept; those of another
    are removed. `progress` is told (bytes done, bytes in all) after every slice, and may raise to stop. The same slices
    give the same bytes.
    """
    listed = list(slices)
    files = _in_files(listed, max_file_bytes)
    _begin(folder, {"identity": identity, "files": len(files), "bytes": sum(s.bytes for s in listed)})
    done, total = 0, sum(s.bytes for s in listed)
    hashes, places = {}, {}
    for number, group in enumerate(files):
        path = folder / f"__0_{number}.distcp"
        note = folder / f".{path.name}.json"
        if not note.is_file():
            write_json(note, _write_file(path, group, partial(_add, progress, done, total)))
        done += sum(s.bytes for s in group)
        progress(done, total)
        record = json.loads(note.read_text())
        hashes[path.name] = record["sha256"]
        for one, (offset, length) in zip(group, record["places"], strict=True):
            places[_key(one)] = _StorageInfo(path.name, offset, length)
    return hashes | _finish(folder, listed, places)


def _add(progress: Callable[[int, int], None], before: int, total: int, size: int) -> None:
    progress(before + size, total)


def _in_files(slices: Sequence[Slice], max_bytes: int) -> list[list[Slice]]:
    groups: list[list[Slice]] = [[]]
    filled = 0
    for one in slices:
        if groups[-1] and filled + one.bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(one)
        filled += one.bytes
    return groups


def _begin(folder: Path, plan: dict[str, object]) -> None:
    note = folder / PLAN
    if not note.is_file() or json.loads(note.read_text()) != plan:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(note, plan)


class _Hashed:
    """A file that hashes what goes into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.place = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.place += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _write_file(path: Path, slices: Sequence[Slice], progress: Callable[[int], None]) -> dict[str, object]:
    """Its sha256, and where each slice is: (offset, length)."""
    temporary, places, done = path.with_name(f".{path.name}.tmp"), [], 0
    with temporary.open("wb") as file:
        out = _Hashed(file)
        for one in slices:
            begin, tensor = out.place, one.make()
            if tuple(tensor.shape) != one.shape:
                raise ValueError(f"{one.tensor}{list(one.index)} was made as {tuple(tensor.shape)}, planned is {one.shape}")
            torch.save(tensor.to(one.dtype).contiguous().view(tuple(one.chunk.sizes)), out)  # type: ignore[arg-type]
            places.append((begin, out.place - begin))
            done += one.bytes
            progress(done)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return {"sha256": out.sha256.hexdigest(), "places": places}


def _key(one: Slice) -> MetadataIndex:
    return MetadataIndex(one.tensor, one.chunk.offsets)


def _finish(folder: Path, slices: Sequence[Slice], places: dict[MetadataIndex, _StorageInfo]) -> dict[str, str]:
    """Index and common part, then Megatron's mark of a complete checkpoint; the notes go. Their hashes by name."""
    tensors: dict[str, TensorStorageMetadata] = {}
    for one in slices:
        if one.tensor not in tensors:
            properties = TensorProperties(dtype=one.dtype, memory_format=torch.contiguous_format)
            tensors[one.tensor] = TensorStorageMetadata(properties, torch.Size(one.stacked), [])
        tensors[one.tensor].chunks.append(one.chunk)
    index = Metadata(dict(tensors), planner_data=None, storage_data=places, storage_meta=None, version=CURRENT_DCP_VERSION)
    (folder / INDEX).write_bytes(pickle.dumps(index))
    with (folder / COMMON).open("wb") as file:
        torch.save({"content_metadata": dict(CONTENT)}, file)
    backends = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    (folder / COMPLETE).write_text(json.dumps({**backends, "common_backend": "torch", "common_backend_version": 1}))
    for note in (*folder.glob(".__0_*.json"), folder / PLAN):
        note.unlink()
    return {name: sha256_of(folder / name) for name in (INDEX, COMMON, COMPLETE)}
