"""Token ids on disk, in the format of Megatron-Core's IndexedDataset, read and written with numpy alone.

Importing Megatron's own writer brings torch and all of Megatron with it (5 s a job, measured), for a format of five
arrays. `tests/data/test_token_store.py` lets Megatron read what is written here.
Source: megatron/core/datasets/indexed_dataset.py (_IndexWriter, DType), version 0.16.1.
"""

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from athanor.artifacts.run import StageError

TOKENS_FILE, INDEX_FILE = "tokens.bin", "tokens.idx"
BYTES_FILE = "token_bytes.npy"  # UTF-8 bytes each token id stands for
MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
TokenType = np.dtype[np.int32] | np.dtype[np.uint16]
DTYPE_CODES: dict[int, TokenType] = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}
LARGEST_UINT16_VOCABULARY = 65_500  # Megatron's DType.optimal_dtype


def token_dtype(vocab_size: int) -> TokenType:
    """The type Megatron keeps ids of this vocabulary in."""
    return np.dtype(np.uint16) if vocab_size < LARGEST_UINT16_VOCABULARY else np.dtype(np.int32)


class TokenWriter:
    """Writes the tokens of a shard, one Megatron sequence a document; the files appear when the `with` block ends well.

    Both are written under temporary names; the index, without which nothing reads the tokens, is renamed last.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._folder = folder
        self._dtype = token_dtype(vocab_size)
        self._lengths: list[int] = []
        self._partial = folder / f"{TOKENS_FILE}.partial"

    def __enter__(self) -> Self:
        self._tokens = self._partial.open("wb")
        return self

    def write(self, documents: list[list[int]]) -> None:
        """Append documents of token ids."""
        self._lengths += map(len, documents)
        flat = [token for document in documents for token in document]
        self._tokens.write(np.array(flat, dtype=self._dtype).tobytes())

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return sum(self._lengths)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tokens.close()
        if error is not None:
            self._partial.unlink()
            return
        os.replace(self._partial, self._folder / TOKENS_FILE)
        index = self._folder / f"{INDEX_FILE}.partial"
        index.write_bytes(self._index())
        os.replace(index, self._folder / INDEX_FILE)

    def _index(self) -> bytes:
        lengths = np.array(self._lengths, dtype=np.int32)
        pointers = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
        documents = np.arange(len(lengths) + 1, dtype=np.int64)
        code = next(code for code, dtype in DTYPE_CODES.items() if dtype == self._dtype)
        header = MAGIC + struct.pack("<QBQQ", VERSION, code, len(lengths), len(documents))
        return header + lengths.tobytes() + (pointers * self._dtype.itemsize).tobytes() + documents.tobytes()


def read_tokens(folder: Path) -> NDArray[np.int32 | np.uint16]:
    """All token ids of a shard as one memory-mapped array [tokens]. Raises StageError when the files do not fit."""
    with (folder / INDEX_FILE).open("rb") as index:
        magic = index.read(len(MAGIC))
        if magic != MAGIC:
            raise StageError(f"{folder / INDEX_FILE} is no index of tokens (it begins with {magic!r}); tokenize again")
        version, code, sequences, _ = struct.unpack("<QBQQ", index.read(25))
        if version != VERSION or code not in DTYPE_CODES:
            raise StageError(f"{folder / INDEX_FILE}: version {version}, type {code}; known are {VERSION}, {DTYPE_CODES}")
        tokens = int(np.fromfile(index, dtype=np.int32, count=sequences).sum(dtype=np.int64))
    found = (folder / TOKENS_FILE).stat().st_size
    if found != tokens * DTYPE_CODES[code].itemsize:
        raise StageError(f"{folder / TOKENS_FILE} has {found} bytes, its index says {tokens} tokens; tokenize again")
    if not tokens:
        return np.empty(0, dtype=DTYPE_CODES[code])
    return np.memmap(folder / TOKENS_FILE, dtype=DTYPE_CODES[code], mode="r", shape=(tokens,))


def write_token_bytes(folder: Path, lengths: list[int]) -> None:
    """Keep the bytes of each token id beside the tokens: a loss becomes bits per byte without the tokenizer."""
    partial = folder / f"{BYTES_FILE}.partial"
    with partial.open("wb") as file:
        np.save(file, np.array(lengths, dtype=np.int32))
    os.replace(partial, folder / BYTES_FILE)


def read_token_bytes(folder: Path) -> NDArray[np.int32]:
    """UTF-8 bytes of each token id [vocabulary]."""
    lengths: NDArray[np.int32] = np.load(folder / BYTES_FILE)
    return lengths
