"""The weight files of a Hugging Face folder, written out of a checkpoint one tensor at a time, and verified."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from athanor.models.conversions import Correspondence, Shape, stacked_shape
from athanor.models.folder_files import INDEX_FILE, ONE_FILE
from athanor.models.origin import Place
from athanor.models.safetensors_file import LETTERS, Header, SafetensorsError, SafetensorsWriter, make_header, read_header
from athanor.models.torch_dist import CheckpointError, ShardedCheckpoint
from athanor.recipe.schema.training import Model

Progress = Callable[[int, int], None]


class ExportError(Exception):
    """A model that has no place in the Hugging Face layout, or a folder that does not load."""


def open_checkpoint(checkpoint: Path, model: Model, table: Sequence[Correspondence]) -> ShardedCheckpoint:
    """The checkpoint, whose tensors are those of `table`. Raises CheckpointError and ExportError."""
    source = ShardedCheckpoint(checkpoint)
    used = {piece.megatron for piece in table}
    if left := [name for name in source.weights() if name not in used]:  # a shared expert, a bias: they change the model
        raise ExportError(f"{checkpoint} holds weights that this layout has no place for: {', '.join(left[:10])}")
    for name, piece in {piece.megatron: piece for piece in table}.items():
        wanted, found = stacked_shape(piece, model), source.shape(name)
        padded = not piece.index and found[1:] == wanted[1:] and found[0] >= wanted[0]  # a vocabulary over tensor ranks
        if found != wanted and not padded:
            raise CheckpointError(
                f"{checkpoint}: {name} has the shape {found}, the recipe's model wants {wanted}; was it trained with another "
                "recipe?"
            )
    return source


def plan_shards(pieces: Iterable[Correspondence], itemsize: int, max_shard_bytes: int) -> list[list[Correspondence]]:
    """What each file holds. One is filled until the next piece would pass the limit; a larger piece stands alone."""
    groups: list[list[Correspondence]] = [[]]
    filled = 0
    for piece in pieces:
        size = piece.values * itemsize
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += size
    return groups


def file_names(count: int) -> list[str]:
    """As transformers names `count` weight files."""
    if count == 1:
        return [ONE_FILE]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def headers(shards: Sequence[Sequence[Correspondence]], dtype_of: Callable[[str], torch.dtype]) -> dict[str, Header]:
    """File name → the header that the library would write for those pieces."""
    tensors = [{name: (LETTERS[dtype_of(name)], s) for piece in group for name, s in piece.huggingface} for group in shards]
    return {name: make_header(held) for name, held in zip(file_names(len(shards)), tensors, strict=True)}


def write_weights(
    folder: Path,
    layout: Mapping[str, Header],
    source: ShardedCheckpoint,
    table: Iterable[Correspondence],
    progress: Progress,
    carried: Mapping[str, Place] | None = None,
) -> None:
    """Write the files of `layout` that are not there; `carried` tensors come from where they were kept.

    `progress` is told (files done, files in all), and may raise to stop.
    """
    piece_of = {name: piece for piece in table for name, _ in piece.huggingface}
    for done, (name, header) in enumerate(layout.items()):
        progress(done, len(layout))
        if (folder / name).is_file():
            continue
        with SafetensorsWriter(folder / name, header) as writer:
            for tensor in header.entries.keys() & (carried or {}).keys():
                place = (carried or {})[tensor]
                writer.copy(tensor, place.path, place.header)
            # A dictionary, as a set that keeps its order: a fused tensor is read once for all that is made of it.
            for piece in {id(piece_of[t]): piece_of[t] for t in header.entries if t in piece_of}.values():
                _put(writer, piece, source)
    progress(len(layout), len(layout))


def write_index(folder: Path, layout: Mapping[str, Header]) -> list[str]:
    """The index, where there are several files; its name."""
    if len(layout) == 1:
        return []
    where = {tensor: name for name, header in layout.items() for tensor in header.entries}
    total = sum(entry.bytes for header in layout.values() for entry in header.entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return [INDEX_FILE]


def verify(folder: Path, layout: Mapping[str, Header], *, transformers_knows: bool = True) -> None:
    """Open the folder as a user would: every tensor is in its file, and transformers misses and ignores none.

    The model is built on the meta device, so this costs no memory. Raises ExportError with what is wrong.
    """
    wrong = [problem for name, header in layout.items() for problem in _compare_file(folder / name, header)]
    if not wrong and transformers_knows:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, device_map="meta", output_loading_info=True)
        report: dict[str, Any] = loaded[1]
        wrong = [f"{kind}: {', '.join(map(str, sorted(found)[:5]))}" for kind, found in report.items() if found]
    if wrong:
        raise ExportError(f"{folder} does not load: {'; '.join(wrong[:10])}; delete the folder and export again")


def _put(writer: SafetensorsWriter, piece: Correspondence, source: ShardedCheckpoint) -> None:
    converted = piece.split(source.read(piece.megatron, piece.index))
    for (name, shape), tensor in zip(piece.huggingface, converted, strict=True):
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{source.folder}: {piece.megatron} gives {name} the shape {tuple(tensor.shape)}, not {shape}")
        if name in writer.header.entries:
            writer.put(name, tensor)


def _compare_file(path: Path, expected: Header) -> Iterator[str]:
    try:
        found: Mapping[str, Any] = read_header(path).entries
    except SafetensorsError as error:
        yield f"{path.name} {error}"
        return
    if missing := expected.entries.keys() - found.keys():
        yield f"{path.name} lacks {', '.join(sorted(missing)[:5])}"
    if surplus := found.keys() - expected.entries.keys():
        yield f"{path.name} has also {', '.join(sorted(surplus)[:5])}"
    for name in sorted(expected.entries.keys() & found.keys()):
        ours: tuple[str, Shape] = (expected.entries[name].dtype, expected.entries[name].shape)
        if (found[name].dtype, found[name].shape) != ours:
            yield f"{path.name}: {name} is {found[name].dtype} {found[name].shape}, not {ours[0]} {ours[1]}"
