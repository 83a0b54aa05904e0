"""Reads slices of tensors out of a sharded Megatron checkpoint: one process, no process group, no model, little memory.

The format is `torch_dist` of megatron.core.dist_checkpointing, that is torch.distributed.checkpoint. It describes each
tensor by its global shape and the chunks that were written, whatever the parallel layout of the writer.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem

COMPLETE = "metadata.json"  # Megatron-Core writes it last
CONTENT = {  # what Megatron-Core asks a checkpoint's metadata about how the optimizer is in it
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": False,
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}


class CheckpointError(Exception):
    """A checkpoint that is incomplete or holds other tensors than the recipe's model."""


class ShardedCheckpoint:
    """The tensors of one checkpoint folder by name, read slice by slice."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError when the folder is not a complete checkpoint."""
        if not (folder / COMPLETE).is_file():
            raise CheckpointError(f"{folder} has no {COMPLETE}: the save never finished; train that milestone again")
        self.folder = folder
        self._reader = FileSystemReader(folder)
        metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self._tensors = {
            name: entry for name, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
        }
        self._by_first_offset: dict[str, dict[int, list[ChunkStorageMetadata]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Global shape. Raises CheckpointError where the checkpoint has no such tensor."""
        return tuple(self._entry(name).size)

    def dtype(self, name: str) -> torch.dtype:
        """The type it was saved in. Raises CheckpointError where the checkpoint has no such tensor."""
        found: torch.dtype = self._entry(name).properties.dtype
        return found

    def weights(self) -> list[str]:
        """Names of the model's own tensors, without the optimizer's."""
        return sorted(name for name in self._tensors if not name.startswith("optimizer."))

    def read(self, name: str, index: Sequence[int] = ()) -> torch.Tensor:
        """The tensor, or its slice `tensor[index[0], index[1], …]`, in the type it was saved in."""
        entry = self._entry(name)
        shape = tuple(entry.size)
        if len(index) > len(shape) or any(not 0 <= i < n for i, n in zip(index, shape, strict=False)):
            raise IndexError(f"{name} has shape {shape}, asked for {tuple(index)}")
        begin = (*index, *(0 for _ in shape[len(index) :]))
        size = (*(1 for _ in index), *shape[len(index) :])
        target = torch.empty(size, dtype=entry.properties.dtype)
        items = [item for chunk in self._chunks(name, begin, size) if (item := _overlap(name, chunk, begin, size))]
        found = sum(item.lengths.numel() for item in items)
        if found != target.numel():
            raise CheckpointError(f"{self.folder}: chunks of {name} cover {found} of {target.numel()} values")
        self._reader.read_data(LoadPlan(items), _IntoOne(target)).wait()
        return target.view(shape[len(index) :])

    def _entry(self, name: str) -> TensorStorageMetadata:
        if name not in self._tensors:
            raise CheckpointError(f"{self.folder} has no tensor {name}; it holds {', '.join(self.weights()[:20])} …")
        return self._tensors[name]

    def _chunks(self, name: str, begin: tuple[int, ...], size: tuple[int, ...]) -> list[ChunkStorageMetadata]:
        """Chunks that may overlap: those of the same layer, where layers are stacked.

        Looking through all of them for every expert of 94 layers of 128 would be quadratic: 145 million comparisons.
        """
        if name not in self._by_first_offset:
            by_offset: dict[int, list[ChunkStorageMetadata]] = defaultdict(list)
            for chunk in self._tensors[name].chunks:
                by_offset[chunk.offsets[0]].append(chunk)
            self._by_first_offset[name] = by_offset
        by_offset = self._by_first_offset[name]
        reach = range(begin[0], begin[0] + size[0])
        return [c for at, group in by_offset.items() for c in group if at < reach.stop and at + c.sizes[0] > reach.start]


class _IntoOne(LoadPlanner):
    """Lets torch's reader copy every chunk into one target tensor."""

    def __init__(self, target: torch.Tensor) -> None:
        self._target = target

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        view = self._target
        for dimension, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            view = view.narrow(dimension, start, length)
        return view

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Already copied."""

    def set_up_planner(self, *_: Any, **__: Any) -> None:
        """Nothing to prepare: the plan is made by hand."""

    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError("the plan is made by ShardedCheckpoint.read")

    create_global_plan = finish_plan = load_bytes = create_local_plan  # type: ignore[assignment]


def _overlap(name: str, chunk: ChunkStorageMetadata, begin: tuple[int, ...], size: tuple[int, ...]) -> ReadItem | None:
    """What of a chunk lies in the box [begin, begin + size)."""
    low = [max(a, b) for a, b in zip(chunk.offsets, begin, strict=True)]
    high = [min(a + m, b + n) for a, m, b, n in zip(chunk.offsets, chunk.sizes, begin, size, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    return ReadItem(
        type=LoadItemType.TENSOR,
        dest_index=MetadataIndex(name, torch.Size(begin)),
        dest_offsets=torch.Size([a - b for a, b in zip(low, begin, strict=True)]),
        storage_index=MetadataIndex(name, chunk.offsets),
        storage_offsets=torch.Size([a - b for a, b in zip(low, chunk.offsets, strict=True)]),
        lengths=torch.Size([b - a for a, b in zip(low, high, strict=True)]),
    )
