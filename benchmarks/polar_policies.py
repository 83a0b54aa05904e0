"""Policies of benchmarks/polar.py: small decoders that were trained on what is installed here, and the texts they write.

One base learns files of five kinds alike: Python, C++ headers, type stubs, YAML, prose. Every family goes on from it with a seed
and a mixture of the kinds of its own, drawn for it; its models are two milestones of that. What they continue are beginnings of
documents in files that none of them has seen.
"""

import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from athanor.rewards.polar.prefixes import assign, prefixes
from athanor.rewards.polar.roster import Policy, draw
from athanor.rewards.polar.triples import Limits, Triple, make_triples
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.trajectories import Speaker, Speech, read_texts, write_trajectories

# What a family speaks mostly: files of what is installed, by the end of their names.
DOMAINS = {
    "python": ("networkx/", (".py",)),
    "headers": ("torch/include/", (".h",)),
    "stubs": ("mypy/typeshed/", (".pyi",)),
    "settings": ("lm_eval/", (".yaml",)),
    "prose": ("", ("/METADATA", ".md", ".rst")),
}
DONE = "done"
END, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY, WINDOW, ROWS = 1024, 96, 16
PREFIX, NEW_TOKENS = (8, 16), 48  # tokens: the shortest and the longest; a text's, at most
HELD_OUT, CUT = 0.25, 64  # of the files; tokens of a document that is continued
SHAPE = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 160, "head_dim": 16}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}


@dataclass(frozen=True)
class Scale:
    """How much is trained and written."""

    base_steps: int = 300
    milestones: tuple[int, ...] = (40, 120)  # steps of a family
    temperatures: tuple[float, ...] = (0.8, 1.0)


Documents = Sequence[tuple[str, list[int]]]  # `FILE:PLACE`, token ids


@dataclass
class Corpus:
    """Token ids of the files of each kind, and documents of the files that nothing is trained on."""

    tokenizer: Tokenizer
    train: dict[str, np.ndarray]
    held_out: Documents


def read_corpus(kept: Path, seed: int, bytes_a_domain: int = 1_200_000) -> Corpus:
    """Files in the order of a hash, up to a size; those held out are cut into short documents. `kept`: may have the tokenizer."""
    texts = {name: dict(_files(*where, seed, bytes_a_domain)) for name, where in DOMAINS.items()}
    train = {d: {n: t for n, t in files.items() if not _held_out(n, seed)} for d, files in texts.items()}
    tokenizer = _tokenizer(kept, [text for files in train.values() for text in files.values()])
    end = tokenizer.token_to_id(END)
    tokens = {d: [np.array([*e.ids, end]) for e in tokenizer.encode_batch(list(f.values()))] for d, f in train.items()}
    held = {n: t for files in texts.values() for n, t in files.items() if _held_out(n, seed)}
    coded = zip(held, tokenizer.encode_batch(list(held.values())), strict=True)
    cut = [(f"{n}:{at}", e.ids[at : at + CUT]) for n, e in coded for at in range(0, len(e.ids) - CUT, CUT)]
    return Corpus(tokenizer, {d: np.concatenate(t) for d, t in tokens.items()}, cut)


def _tokenizer(kept: Path, texts: list[str]) -> Tokenizer:
    if (kept / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(kept / "tokenizer.json"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    known = {"special_tokens": [END, PAD], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False, **known))
    return tokenizer


def _held_out(name: str, seed: int) -> bool:
    return draw("held out", name, seed) < HELD_OUT * 2**64


def _files(under: str, ends: tuple[str, ...], seed: int, most: int) -> Iterator[tuple[str, str]]:
    root, taken = Path(sysconfig.get_paths()["purelib"]), 0
    names = (path.relative_to(root).as_posix() for path in (root / under).rglob("*") if path.as_posix().endswith(ends))
    for name in sorted(names, key=lambda name: draw(name, seed)):
        text = (root / name).read_text(encoding="utf-8", errors="ignore")[:20_000]
        if len(text) > 400 and taken < most:
            taken += len(text)
            yield name, text


def write_base(corpus: Corpus, folder: Path, scale: Scale, seed: int) -> None:
    """A decoder that learnt all kinds alike; saved with its tokenizer. One that is there is kept."""
    if (folder / DONE).is_file():
        return
    torch.manual_seed(seed)
    ids = {"eos_token_id": corpus.tokenizer.token_to_id(END), "pad_token_id": corpus.tokenizer.token_to_id(PAD)}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, tie_word_embeddings=False, **SHAPE, **ids))
    _train(model, corpus, dict.fromkeys(DOMAINS, 1.0), range(scale.base_steps), scale.base_steps, 3e-3, seed)
    _save(model, corpus, folder)


def write_family(base: Path, corpus: Corpus, folder: Path, name: str, scale: Scale, seed: int) -> dict[str, Path]:
    """The models of one family, by name."""
    model = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    mine = dict(zip(DOMAINS, np.random.default_rng([seed, draw(name) % 2**31]).dirichlet([0.25] * len(DOMAINS)), strict=True))
    found, before = {f"{name}-{step}": folder / f"{name}-{step}" for step in scale.milestones}, 0
    if all((where / DONE).is_file() for where in found.values()):
        return found
    for step in scale.milestones:
        _train(model, corpus, mine, range(before, step), 10**9, 1e-3, draw(name, seed) % 2**31)
        _save(model, corpus, found[f"{name}-{step}"])
        before = step
    return found


def _train(model: Any, corpus: Corpus, mixture: dict[str, float], steps: range, horizon: int, lr: float, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step in steps:
        drawn = np.random.default_rng([seed, step])
        names = drawn.choice(list(mixture), size=ROWS, p=np.array(list(mixture.values())) / sum(mixture.values()))
        rows = [_window(corpus.train[name], drawn) for name in names]
        ids = torch.from_numpy(np.stack(rows))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20) * max(0.1, 1 - step / horizon)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _window(tokens: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    at = int(drawn.integers(len(tokens) - WINDOW))
    return tokens[at : at + WINDOW]


def _save(model: Any, corpus: Corpus, folder: Path) -> None:
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=corpus.tokenizer, eos_token=END, pad_token=PAD).save_pretrained(folder)
    (folder / DONE).touch()


def write_triples(
    corpus: Corpus, policies: Sequence[Policy], folders: dict[str, Path], documents: Documents, folder: Path, seed: int
) -> list[Triple]:
    """The policies' texts behind the beginnings of `documents`, as triples; shards below `folder` are kept."""
    some = prefixes(documents, *PREFIX, seed)
    continued, ends = assign(some, policies, seed), [corpus.tokenizer.token_to_id(END)]
    speakers = {
        model: Speaker(model, lambda where=where: InProcessEngine(where, ends))  # type: ignore[misc]
        for model, where in folders.items()
    }
    shards = write_trajectories(continued, speakers, Speech(NEW_TOKENS, seed), folder, lambda *_: None)
    return make_triples(continued, read_texts(shards), Limits()).triples
