"""Tokens on disk: Megatron's format byte for byte, and Megatron reads it."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.token_store import TokenWriter, read_token_bytes, read_tokens, token_dtype, write_token_bytes

READ_WITH_MEGATRON = """
import sys
from megatron.core.datasets.indexed_dataset import IndexedDataset
dataset = IndexedDataset(sys.argv[1])
print(dataset.index.dtype.__name__, [d.tolist() for d in dataset], dataset.document_indices.tolist())
"""
documents = st.lists(st.lists(st.integers(0, 65_000), min_size=1, max_size=20), min_size=1, max_size=8)


@settings(max_examples=50)
@given(documents, st.sampled_from([65_001, 70_000]))
def test_tokens_come_back(tmp_path_factory: pytest.TempPathFactory, ids: list[list[int]], vocabulary: int) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    with TokenWriter(folder, vocabulary) as writer:
        for document in ids:
            writer.write([document])
        assert writer.tokens == sum(map(len, ids))
    assert read_tokens(folder).tolist() == [token for document in ids for token in document]
    assert read_tokens(folder).dtype == token_dtype(vocabulary)


def test_index_is_laid_out_as_megatron_writes_it(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 4096) as writer:
        writer.write([[5, 6, 7], [8]])
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2, 3) + struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 1, 2)
    assert (tmp_path / "tokens.idx").read_bytes() == expected
    assert (tmp_path / "tokens.bin").read_bytes() == struct.pack("<4H", 5, 6, 7, 8)


@pytest.mark.slow  # importing Megatron takes 5 s
@pytest.mark.parametrize(("vocabulary", "dtype"), [(4096, "uint16"), (100_000, "int32")])
def test_megatron_reads_what_is_written_here(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    with TokenWriter(tmp_path, vocabulary) as writer:
        writer.write([[1, 2, 3], [4]])
        writer.write([[vocabulary - 1, 0]])
    read = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_WITH_MEGATRON, str(tmp_path / "tokens")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout.strip() == f"{dtype} [[1, 2, 3], [4], [{vocabulary - 1}, 0]] [0, 1, 2, 3]"


def test_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TokenWriter(tmp_path, 4096) as writer:
        writer.write([[1]])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_tokens_cut_short_are_noticed(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 4096) as writer:
        writer.write([[1, 2, 3]])
    (tmp_path / "tokens.bin").write_bytes(b"\0\0")
    with pytest.raises(StageError, match=r"tokens\.bin has 2 bytes, its index says 3 tokens"):
        read_tokens(tmp_path)
    (tmp_path / "tokens.idx").write_bytes(b"something else")
    with pytest.raises(StageError, match=r"tokens\.idx is no index"):
        read_tokens(tmp_path)


def test_no_documents_are_no_tokens(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 4096):
        pass
    assert len(read_tokens(tmp_path)) == 0


def test_token_bytes_come_back(tmp_path: Path) -> None:
    write_token_bytes(tmp_path, [0, 1, 7])
    assert np.array_equal(read_token_bytes(tmp_path), [0, 1, 7])
