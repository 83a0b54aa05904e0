"""Puts a decoder back into the Hugging Face folder that it came from, with everything that stood beside it there."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from athanor.models.conversions import HEAD, Correspondence, correspondences, type_among
from athanor.models.folder_files import INDEX_FILE
from athanor.models.origin import Origin, copy_files
from athanor.models.safetensors_file import DTYPES, Header, subset
from athanor.models.torch_dist import ShardedCheckpoint
from athanor.models.weight_files import (
    Progress,
    file_names,
    headers,
    open_checkpoint,
    plan_shards,
    verify,
    write_index,
    write_weights,
)
from athanor.recipe.families import CONFIG, adapted, layers_of
from athanor.recipe.schema.training import Model

MAX_SHARD_BYTES = 5_000_000_000
CONFIG_DTYPES = ("dtype", "torch_dtype")  # of transformers 5 and 4


@dataclass(frozen=True)
class Restoration:
    """What will be written, checked."""

    origin: Origin
    source: ShardedCheckpoint
    table: tuple[Correspondence, ...]
    layout: Mapping[str, Header]
    same_layout: bool
    config: Mapping[str, object]
    transformers_knows: bool

    @property
    def bytes(self) -> int:
        """Of all weight files."""
        return sum(header.file_bytes for header in self.layout.values())


def plan_restore(checkpoint: Path, model: Model, origin: Origin, dtype: torch.dtype | None = None) -> Restoration:
    """How `checkpoint`, a `model`, becomes the folder that `origin` was.

    `dtype` None: every tensor has the type that it had there, and where no shape changed the same file and place, so that
    an unchanged model gives the same bytes. Raises CheckpointError and ExportError.
    """
    family = origin.described.family.with_layers(layers_of(model))
    entries = {name: entry for header in origin.headers.values() for name, entry in header.entries.items()}
    table = tuple(correspondences(model, family, head_beside_tied=model.tie_embeddings and HEAD in entries))
    source = open_checkpoint(checkpoint, model, table)
    shapes = {name: shape for piece in table for name, shape in piece.huggingface}
    before = {name: entry.shape for name, entry in entries.items() if name not in origin.carried}
    same_layout = dtype is None and shapes == before
    layout = origin.headers if same_layout else _new_layout(origin, table, dtype)
    config = adapted(origin.described, model)
    _set_dtype(config, dtype)
    return Restoration(origin, source, table, layout, same_layout, config, not family.has_other_parts)


def restore(plan: Restoration, folder: Path, progress: Progress) -> None:
    """Fill `folder` and verify it. Memory is one tensor's; finished files of an interrupted call are kept."""
    origin = plan.origin
    folder.mkdir(parents=True, exist_ok=True)
    copy_files(origin, folder)
    if plan.config != origin.described.config:
        (folder / CONFIG).write_text(json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n")
    write_weights(folder, plan.layout, plan.source, plan.table, progress, origin.carried)
    if plan.same_layout and (origin.path / INDEX_FILE).is_file():
        shutil.copyfile(origin.path / INDEX_FILE, folder / INDEX_FILE)
    else:
        write_index(folder, plan.layout)
    verify(folder, plan.layout, transformers_knows=plan.transformers_knows)


def _new_layout(origin: Origin, table: Sequence[Correspondence], dtype: torch.dtype | None) -> Mapping[str, Header]:
    """Files of the decoder, filled anew, then those of what is carried, as they were kept."""
    kept = {name: entry.dtype for header in origin.headers.values() for name, entry in header.entries.items()}
    usual = kept[table[0].huggingface[0][0]]  # the embedding's, for tensors that were not there

    def dtype_of(name: str) -> torch.dtype:
        return type_among(name, dtype) if dtype else DTYPES[kept.get(name, usual)]

    decoder = headers(plan_shards(table, DTYPES[usual].itemsize if dtype is None else dtype.itemsize, MAX_SHARD_BYTES), dtype_of)
    files = {place.path: place.header for place in origin.carried.values()}
    others = [subset(header, header.entries.keys() & origin.carried.keys()) for header in files.values()]
    return dict(zip(file_names(len(decoder) + len(others)), [*decoder.values(), *others], strict=True))


def _set_dtype(config: dict[str, object], dtype: torch.dtype | None) -> None:
    """Let the config say the type of the weights, wherever it says one."""
    if dtype is None:
        return
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in CONFIG_DTYPES:
            if key in section:
                section[key] = str(dtype).removeprefix("torch.")
