"""One training of benchmarks/optimizers.py: a small dense model on Python files, through the DeepSpeed backend's own loop.

The files are networkx's, as installed; a quarter of them, chosen by a hash of their names, is held out. A byte-level BPE of
VOCABULARY tokens is trained on the others. A seed decides the first weights and the order of the windows, of which each is read
at most once.
"""

import hashlib
import json
import math
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from athanor.artifacts.run import StageError, StageRun
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Checkpoint, Optimizer, Parallel, Pretrain, Zero
from athanor.training.deepspeed.language import measured
from athanor.training.deepspeed.loop import Learner, ModuleRun, fresh_engine
from athanor.training.deepspeed.ranks import connected
from athanor.training.deepspeed.task import ModuleTask
from athanor.training.deepspeed.windows import PackedBatches, drawn_losses, response_losses
from athanor.training.held_out import START_VALIDATION, VALIDATION, HeldOut
from athanor.training.optimizers import state_bytes
from athanor.training.stopwatch import Stopwatch

VOCABULARY, LENGTH, WINDOWS, HELD_OUT_WINDOWS = 512, 64, 8, 64  # tokens; tokens; of a step
END = "<|endoftext|>"
SHAPE = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 256, "head_dim": 24}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}
FAILED = math.inf  # what a training counts that ends without numbers


@dataclass(frozen=True)
class Run:
    """What is trained."""

    optimizer: Optimizer
    lr: float
    seed: int
    steps: int
    corpus: Path
    folder: Path  # empty


@dataclass(frozen=True)
class Found:
    """What it came to."""

    loss: float  # nats a token of what is held out; FAILED where training ended without numbers
    untrained: float = math.nan
    bytes_a_parameter: float = math.nan  # of optimizer state
    peak_bytes: int = 0  # of memory, above what the process had before the model
    tokens_per_core_second: float = math.nan  # of the whole training, its two measurements and one save


@dataclass(frozen=True)
class Window:
    """Running text as one packed document, all of which counts."""

    tokens: NDArray[np.int64]
    counts: NDArray[np.bool_] = field(default_factory=lambda: np.ones(LENGTH + 1, dtype=np.bool_))
    ends: NDArray[np.int64] = field(default_factory=lambda: np.array([LENGTH + 1]))


@dataclass(frozen=True)
class Windows:
    """Those of the training files in an order of a seed."""

    rows: NDArray[np.int64]
    order: NDArray[np.int64]

    def sample(self, index: int) -> Window:
        """Window `index`."""
        return Window(self.rows[self.order[index]])


@dataclass(frozen=True)
class Corpus:
    """Windows [windows, LENGTH + 1]."""

    trained: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """For the trainings."""
        np.savez(path, trained=self.trained, held_out=self.held_out)

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """What was saved."""
        with np.load(path) as kept:
            return cls(kept["trained"], kept["held_out"])

    def unigrams(self) -> float:
        """Nats a token of what is held out, by the training windows' frequencies (add-one)."""
        counts = np.bincount(self.trained[:, 1:].ravel(), minlength=VOCABULARY) + 1
        return float(-np.log(counts / counts.sum())[self.held_out[:, 1:]].mean())


def read_corpus() -> Corpus:
    """Files that are trained on, and some windows of those held out."""
    root = Path(sysconfig.get_paths()["purelib"]) / "networkx"
    parts: tuple[list[str], list[str]] = ([], [])
    for path in sorted(root.rglob("*.py")):
        drawn = hashlib.blake2b(path.relative_to(root).as_posix().encode()).digest()[0]
        parts[drawn < 64].append(path.read_text(encoding="utf-8"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known = {"special_tokens": [END], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(parts[0], trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False, **known))
    end = tokenizer.token_to_id(END)
    trained, held_out = (np.concatenate([[*e.ids, end] for e in tokenizer.encode_batch(texts)]) for texts in parts)
    rows = _cut(held_out)
    return Corpus(_cut(trained), rows[:: len(rows) // HELD_OUT_WINDOWS][:HELD_OUT_WINDOWS])


def parameters() -> int:
    """Of the model."""
    return sum(weight.numel() for weight in _model(0).parameters())


def train(run: Run) -> None:
    """Leave `found.json` in the folder."""
    corpus = Corpus.load(run.corpus)
    torch.set_num_threads(1)
    order = np.random.default_rng(run.seed).permutation(len(corpus.trained))
    if len(order) < run.steps * WINDOWS:
        raise SystemExit(f"{run.steps} steps read {run.steps * WINDOWS} windows, and the files have {len(order)}: take fewer")
    settings = _settings(run)
    task = ModuleTask(
        settings=settings,
        zero=Zero(stage=0),
        end_tokens=settings.token_budget,
        module=lambda: _model(run.seed),
        batches=lambda: PackedBatches(Windows(corpus.trained, order)),
        loss=response_losses,
        sampled_loss=drawn_losses,
        held_out=lambda: {"python": measured(HeldOut([Window(row) for row in corpus.held_out], 0))},
        write=lambda weights, folder: None,
    )
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    stage = StageRun(Recipe(name="optimizers", seed=run.seed, pretrain=settings), "sft", "model", "0" * 16, run.folder, {})
    try:
        with connected(1, run.seed) as ranks:
            engine = fresh_engine(task, ranks)
            began = time.process_time()
            ModuleRun(stage, task, Learner(engine, ranks, Stopwatch(ranks.device))).to_the_end()
            speed = settings.token_budget / (time.process_time() - began)
            kept = state_bytes(engine.optimizer)
    except StageError as error:
        print(error, flush=True)
        found = Found(FAILED)
    else:
        losses = [
            json.loads((run.folder / name).read_text())["python"]["nats_per_token"] for name in (VALIDATION, START_VALIDATION)
        ]
        found = Found(*losses, kept / parameters(), _memory("VmHWM") - before, speed)
    (run.folder / "found.json").write_text(json.dumps(vars(found)))


def _settings(run: Run) -> Pretrain:
    batch = WINDOWS * LENGTH
    budget = run.steps * batch
    return Pretrain(
        token_budget=budget, sequence_length=LENGTH, batch_tokens=batch, lr=run.lr, min_lr=run.lr / 10,
        warmup_tokens=budget // 10, decay_tokens=budget // 2, validate_every_tokens=10**12, log_every_steps=10**6,
        optimizer=run.optimizer, parallel=Parallel(micro_batch_size=WINDOWS), checkpoint=Checkpoint(every_tokens=10**12),
    )  # fmt: skip


def _model(seed: int) -> Any:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, tie_word_embeddings=False, attn_implementation="sdpa", **SHAPE))


def _cut(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    windows = (len(tokens) - 1) // LENGTH
    return np.stack([tokens[at * LENGTH : (at + 1) * LENGTH + 1] for at in range(windows)])


def _memory(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024
