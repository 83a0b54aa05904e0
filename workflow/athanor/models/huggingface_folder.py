"""A Hugging Face folder: its config, its weight files by their headers, and everything that is wrong with it in one report.

Nothing but headers is read: a folder of 500 GB is checked in seconds.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from athanor.models.conversions import HEAD, correspondences
from athanor.models.folder_files import INDEX_FILE, FolderError, weight_files
from athanor.models.safetensors_file import DTYPES, Entry, Header, SafetensorsError, read_header, read_tensor
from athanor.recipe.families import CONFIG, ConfigError, Described, read_config

SHOWN = 5  # names of tensors in one line of a report


@dataclass(frozen=True)
class Folder:
    """A folder whose headers fit its config."""

    path: Path
    described: Described
    headers: dict[str, Header]  # by file name, in the order of the names
    file_of: dict[str, str]  # tensor → file name
    carried: frozenset[str]  # tensors that are no part of the decoder: a vision tower, a projector

    @property
    def head_beside_tied(self) -> bool:
        """Whether tied embeddings are repeated as the output layer."""
        return self.described.model.tie_embeddings and HEAD in self.file_of

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(header.file_bytes for header in self.headers.values())

    def entry(self, tensor: str) -> Entry:
        """What the header says of a tensor."""
        return self.headers[self.file_of[tensor]].entries[tensor]

    def read(self, tensor: str) -> torch.Tensor:
        """One tensor, read from its file."""
        name = self.file_of[tensor]
        return read_tensor(self.path / name, self.headers[name], tensor)


def open_folder(path: Path) -> Folder:
    """Look at config and headers. Raises FolderError with everything that is wrong."""
    if not path.is_dir():
        raise FolderError(path, ["there is no such folder"])
    problems: list[str] = []
    described: Described | None = None
    try:
        described = read_config(path)
    except ConfigError as error:
        problems += [f"{CONFIG}: {problem}" for problem in error.problems]
    headers: dict[str, Header] = {}
    for name in weight_files(path, problems):
        try:
            headers[name] = read_header(path / name)
        except FileNotFoundError:
            problems.append(f"{name}: {INDEX_FILE} names it, but it is not there")
        except (SafetensorsError, OSError) as error:
            problems.append(f"{name}: {error}")
    file_of = {tensor: name for name, header in headers.items() for tensor in header.entries}
    problems += _contradictions(path, headers, file_of)
    if described is None:
        raise FolderError(path, problems)
    folder = Folder(path, described, headers, file_of, _others(described, file_of))
    problems += _misfits(folder, complete=not problems)
    if problems:
        raise FolderError(path, problems)
    return folder


def _contradictions(path: Path, headers: dict[str, Header], file_of: dict[str, str]) -> Iterator[str]:
    """Tensors that the index has elsewhere, or that two files have, or whose bytes are not those of their shape."""
    if headers and (path / INDEX_FILE).is_file():
        index = json.loads((path / INDEX_FILE).read_text())["weight_map"]
        wrong = [tensor for tensor, name in index.items() if name in headers and tensor not in headers[name].entries]
        if wrong:
            yield f"{INDEX_FILE} names tensors that are not in their files: {_some(wrong)}"
    if sum(len(header.entries) for header in headers.values()) > len(file_of):
        yield "two weight files hold tensors of the same name"
    for name, header in headers.items():
        for tensor, entry in header.entries.items():
            if entry.dtype in DTYPES and entry.bytes != prod(entry.shape) * DTYPES[entry.dtype].itemsize:
                yield f"{name}: {tensor} has {entry.bytes} bytes, which is not its shape {entry.shape}"


def _others(described: Described, file_of: dict[str, str]) -> frozenset[str]:
    if not described.family.has_other_parts:
        return frozenset()
    return frozenset(t for t in file_of if not t.startswith(described.family.prefix) and t != HEAD)


def _misfits(folder: Folder, *, complete: bool) -> Iterator[str]:
    """Tensors of the decoder that are missing (asked only where all files could be read), too many or of another shape."""
    described, head = folder.described, folder.head_beside_tied
    expected = {
        name: shape
        for piece in correspondences(described.model, described.family, head_beside_tied=head)
        for name, shape in piece.huggingface
    }
    present = folder.file_of.keys() - folder.carried
    if complete and (missing := expected.keys() - present):
        yield f"{len(missing)} tensors are missing: {_some(missing)}"
    if surplus := present - expected.keys():
        yield f"{len(surplus)} tensors have no place in {described.family.architecture} as converted here: {_some(surplus)}"
    shown = 0
    for name in sorted(expected.keys() & present):
        entry = folder.entry(name)
        if entry.shape != expected[name] and (shown := shown + 1) <= SHOWN:
            yield f"{name} has the shape {entry.shape}, {CONFIG} makes it {expected[name]}"
        if entry.dtype not in DTYPES:
            yield f"{name} is {entry.dtype}; weights of {', '.join(DTYPES)} convert"
    if shown > SHOWN:
        yield f"{shown - SHOWN} more tensors have another shape"


def _some(names: object) -> str:
    listed = sorted(names)  # type: ignore[call-overload]
    return ", ".join(listed[:SHOWN]) + (" …" if len(listed) > SHOWN else "")
