"""Training windows and validation sequences over tokens on disk."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.artifacts.run import StageError
from athanor.data.token_store import TokenWriter, write_token_bytes
from athanor.data.windows import TokenStream, held_out_sequences, held_out_shards, training_shards


def write_shard(folder: Path, tokens: list[int]) -> Path:
    folder.mkdir(parents=True)
    with TokenWriter(folder, 4096) as writer:
        writer.write([tokens] if tokens else [])
    return folder


@settings(max_examples=40)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(1, 9))
def test_stream_windows_are_slices_of_the_shards_end_to_end(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int
) -> None:
    root = tmp_path_factory.mktemp("s")
    ends = np.cumsum([0, *sizes])
    shards = [write_shard(root / str(i), list(range(ends[i], ends[i + 1]))) for i in range(len(sizes))]
    if sum(sizes) < length + 1:
        with pytest.raises(StageError, match=f"hold no sequence of {length}"):
            TokenStream(shards, length)
        return
    stream = TokenStream(shards, length)
    for position in range(stream.windows):
        assert stream.window(position).tolist() == list(range(position * length, position * length + length + 1))
    assert stream.tokens - 1 - stream.windows * length < length  # fewer than one window is left over


def test_held_out_sequences_predict_each_token_once_and_count_its_bytes(tmp_path: Path) -> None:
    tokens = [n % 7 for n in range(50)]
    folder = write_shard(tmp_path / "h", tokens)
    lengths = [0, 1, 2, 3, 4, 5, 6]
    write_token_bytes(folder, lengths)
    held_out = held_out_sequences(folder, 8, 1000)
    assert held_out.sequences.shape == (6, 9)
    assert held_out.sequences[:, 1:].ravel().tolist() == tokens[1:49]
    assert held_out.tokens == 48
    assert held_out.bytes == sum(lengths[t] for t in tokens[1:49])


@pytest.mark.parametrize(("most", "windows"), [(1, 1), (16, 2), (23, 2), (24, 3)])
def test_held_out_sequences_stop_at_the_most_tokens_but_give_one(tmp_path: Path, most: int, windows: int) -> None:
    folder = write_shard(tmp_path / "h", list(range(100)))
    write_token_bytes(folder, [1] * 100)
    held_out = held_out_sequences(folder, 8, most)
    assert (len(held_out.sequences), held_out.tokens) == (windows, windows * 8)


def test_held_out_sequences_of_too_few_tokens_say_the_way_out(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "h", [1, 2, 3])
    write_token_bytes(folder, [1] * 4)
    with pytest.raises(StageError, match=r"held_out_fraction.*sequence_length"):
        held_out_sequences(folder, 8, 100)


def test_inputs_are_grouped_by_source_in_the_order_of_their_shards() -> None:
    folders = {f"wiki-en-{part}": Path(part) for part in ("10", "held_out", "2", "0")} | {"code-0": Path("c")}
    assert training_shards(folders) == {"wiki-en": [Path("0"), Path("2"), Path("10")], "code": [Path("c")]}
    assert held_out_shards(folders) == {"wiki-en": Path("held_out")}
