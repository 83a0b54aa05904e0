"""The tokenizer: any text comes back, the same file every time, and transformers can read it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Encoder

from athanor.artifacts.run import StageError
from athanor.data.bpe import load, sample_texts, save, token_bytes, train
from athanor.data.documents import Document, JsonlWriter
from athanor.recipe.schema.recipe import Tokenizer

RECIPE = Tokenizer(vocab_size=400, sample_bytes=10_000)
TEXTS = [
    "the theory of the thermal bath, 1905 and 2024\n",
    "CC(=O)OC1=CC=CC=C1C(=O)O\n",
    "def f(x):\n    return x\n",
    "été, là où 数学 🙂",
] * 20

TRAIN_AND_PRINT = """
import hashlib, json, sys
from athanor.data.bpe import train
from athanor.recipe.schema.recipe import Tokenizer
print(hashlib.sha256(train(json.load(sys.stdin), Tokenizer(vocab_size=400)).to_str().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    trained = train(TEXTS, RECIPE)
    trained.encode_special_tokens = True
    return trained


@settings(max_examples=300)
@given(st.text())
def test_any_text_comes_back_and_its_tokens_cover_its_bytes(encoder: Encoder, text: str) -> None:
    ids = encoder.encode(text, add_special_tokens=False).ids
    assert encoder.decode(ids, skip_special_tokens=False) == text
    lengths = token_bytes(encoder)
    assert sum(lengths[i] for i in ids) == len(text.encode())


@given(st.lists(st.sampled_from(["<|endoftext|>", "<|im_start|>", "a", " ", "<|", "|>"])))
def test_special_tokens_written_in_a_text_stay_text(encoder: Encoder, parts: list[str]) -> None:
    text = "".join(parts)
    assert not set(encoder.encode(text, add_special_tokens=False).ids) & {0, 1, 2, 3}


def test_every_digit_is_one_token(encoder: Encoder) -> None:
    assert encoder.encode("1905", add_special_tokens=False).tokens == ["1", "9", "0", "5"]


def test_training_again_in_another_process_gives_the_same_file() -> None:
    hashes = {
        subprocess.run(
            [sys.executable, "-c", TRAIN_AND_PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            input=json.dumps(TEXTS),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_saved_folder_loads_with_auto_tokenizer(encoder: Encoder, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save(encoder, RECIPE, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "thermal 1905 été\n  🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer(text)["input_ids"] == load(tmp_path).encode(text).ids
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [2, 3]


def test_save_without_chat_tokens_has_no_chat_template(tmp_path: Path) -> None:
    recipe = Tokenizer(vocab_size=300, special_tokens=["<eot>", "<pad>"])
    save(train(TEXTS, recipe), recipe, tmp_path)
    assert "chat_template" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_train_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(StageError, match="vocab_size=258"):
        train(TEXTS, Tokenizer(vocab_size=258))


def test_sample_takes_each_source_by_its_weight_or_as_far_as_it_goes(tmp_path: Path) -> None:
    files = {}
    for name, count in (("a", 500), ("b", 500), ("small", 3), ("unused", 5)):
        with JsonlWriter(tmp_path / name) as writer:
            for n in range(count):
                writer.write(Document(str(n), f"{n:010d}", ""))
        files[name] = [tmp_path / name]
    weights = {"a": 3.0, "b": 1.0, "small": 4.0}
    sample = list(sample_texts({name: files[name] for name in weights}, weights, 4000))
    taken = {name: sum(source == name for source, _ in sample) for name in weights}
    assert taken == {"a": 150, "b": 50, "small": 3}
    assert [text for source, text in sample if source == "a"][:2] == ["0000000000", "0000000001"]
