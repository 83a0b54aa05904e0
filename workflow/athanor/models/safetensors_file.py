"""Safetensors files read and written one tensor at a time, so that memory is a tensor's and not a file's.

The library maps whole files into memory and writes from a dictionary of all tensors; the format itself is simple: 8 bytes
of length, a JSON header with the place of every tensor, then their bytes (https://github.com/huggingface/safetensors).
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LETTERS = {dtype: letters for letters, dtype in DTYPES.items()}
METADATA = "__metadata__"
LARGEST_HEADER = 100_000_000  # bytes; the library's own limit
ALIGNMENT = 8  # the library pads its headers with spaces to that
BLOCK = 16 << 20  # bytes copied at once

Shape = tuple[int, ...]


class SafetensorsError(Exception):
    """A file that is no whole safetensors file."""


@dataclass(frozen=True)
class Entry:
    """One tensor: its type in the format's letters (`BF16`), its shape, and its bytes counted from the end of the header."""

    dtype: str
    shape: Shape
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What a file says of itself. `text` is the JSON as it stands in the file, padding included."""

    text: bytes
    entries: Mapping[str, Entry]

    @property
    def data_begin(self) -> int:
        """Where in the file the first tensor's bytes are."""
        return 8 + len(self.text)

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return self.data_begin + max((entry.end for entry in self.entries.values()), default=0)


def parse_header(text: bytes) -> Header:
    """Raises SafetensorsError where `text` is no header."""
    try:
        data = json.loads(text)
        entries = {
            name: Entry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in data.items()
            if name != METADATA
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SafetensorsError(f"its header is no safetensors header ({error})") from error
    return Header(text, entries)


def read_header(path: Path) -> Header:
    """The header of `path`. Raises SafetensorsError where the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else LARGEST_HEADER + 1
        if length > min(LARGEST_HEADER, size - 8):
            raise SafetensorsError(f"has {size} bytes and no safetensors header; copy the file again")
        header = parse_header(file.read(length))
    if header.file_bytes != size:
        raise SafetensorsError(f"has {size} bytes, its header tells of {header.file_bytes}; copy the file again")
    return header


def make_header(tensors: Mapping[str, tuple[str, Shape]]) -> Header:
    """The header that the library would write for `tensors` (dtype in letters, shape): wide types first, then by name."""

    def item_bytes(letters: str) -> int:
        return DTYPES[letters].itemsize

    begin, entries = 0, {}
    for name in sorted(tensors, key=lambda name: (-item_bytes(tensors[name][0]), name)):
        letters, shape = tensors[name]
        entries[name] = Entry(letters, shape, begin, begin + prod(shape) * item_bytes(letters))
        begin = entries[name].end
    return Header(_text(entries), entries)


def subset(header: Header, names: Iterable[str]) -> Header:
    """The header of a file with only some of the tensors, in their order; of all of them it is the same header."""
    chosen = set(names)
    if chosen == header.entries.keys():
        return header
    begin, entries = 0, {}
    for name, entry in sorted(header.entries.items(), key=lambda item: item[1].begin):
        if name in chosen:
            entries[name] = Entry(entry.dtype, entry.shape, begin, begin + entry.bytes)
            begin += entry.bytes
    return Header(_text(entries), entries)


def _text(entries: Mapping[str, Entry]) -> bytes:
    listed = {name: {"dtype": e.dtype, "shape": e.shape, "data_offsets": (e.begin, e.end)} for name, e in entries.items()}
    text = json.dumps({METADATA: {"format": "pt"}, **listed}, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % ALIGNMENT)


def read_tensor(path: Path, header: Header, name: str) -> torch.Tensor:
    """One tensor of `path`, read into memory of its own."""
    entry = header.entries[name]
    raw = torch.empty(entry.bytes, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(header.data_begin + entry.begin)
        if file.readinto(raw.numpy().data) != entry.bytes:
            raise SafetensorsError(f"{path} ends within {name}; copy the file again")
    return raw.view(DTYPES[entry.dtype]).view(entry.shape)


class SafetensorsWriter:
    """Writes `path` tensor by tensor, in any order; the file has its name only once it is whole and on the disk."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._waiting = set(header.entries)
        self._file: BinaryIO

    def __enter__(self) -> "SafetensorsWriter":
        self._file = self._temporary.open("wb")
        self._file.write(struct.pack("<Q", len(self.header.text)) + self.header.text)
        self._file.truncate(self.header.file_bytes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._waiting:
            self._file.close()
            raise SafetensorsError(f"{self.path.name} was to hold {', '.join(sorted(self._waiting)[:5])}, too")
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            os.replace(self._temporary, self.path)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, converted to the type that the header has for it. Raises SafetensorsError for another shape."""
        entry = self.header.entries[name]
        if tuple(tensor.shape) != entry.shape:
            raise SafetensorsError(f"{name} has the shape {tuple(tensor.shape)}, {self.path.name} wants {entry.shape}")
        self._seek(name)
        raw = tensor.to(DTYPES[entry.dtype]).contiguous().reshape(-1)
        self._file.write(raw.view(torch.uint8).numpy().data)

    def copy(self, name: str, source: Path, header: Header) -> None:
        """Write one tensor's bytes as they stand in `source`, whose header is `header`, block by block."""
        entry, left = header.entries[name], header.entries[name].bytes
        if left != self.header.entries[name].bytes:
            raise SafetensorsError(f"{name} has {left} bytes in {source}, {self.path.name} wants another number")
        self._seek(name)
        with source.open("rb") as file:
            file.seek(header.data_begin + entry.begin)
            while left:
                if not (block := file.read(min(left, BLOCK))):
                    raise SafetensorsError(f"{source} ends within {name}; copy the file again")
                self._file.write(block)
                left -= len(block)

    def _seek(self, name: str) -> None:
        self._waiting.discard(name)
        self._file.seek(self.header.data_begin + self.header.entries[name].begin)
