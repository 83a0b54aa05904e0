"""One rank of a benchmarked training run, ours or Hugging Face's: `python benchmarks/training_rank.py ORDER.pickle`."""

import json
import os
import pickle
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athanor.artifacts.run import StageRun
from athanor.models.fp8_emulated import BlockScaling
from athanor.models.precision import EMULATED
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.tracking.spool import NullSpool

INITIALIZE, OURS, PAIRS = "initialize", "ours", "pairs"  # other kinds name the peer's experts implementation


class Enough(Exception):
    """All steps are measured; the checkpoint at the end is no part of them, and of a large model it takes minutes."""


@dataclass
class Marks(NullSpool):
    """Takes note of every step's loss, when it was done and how much CPU this rank had used by then (seconds).

    Raises Enough after `steps`, unless 0: other ranks would wait for this one.
    """

    steps: int
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    saves: list[dict[str, float]] = field(default_factory=list)  # seconds: what training stood still for, and all

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The loop logs every step here, and what saves cost."""
        if "checkpoint_seconds" in values:
            self.saves.append({"stall": values["checkpoint_stall_seconds"], "total": values["checkpoint_seconds"]})
        if "loss" in values:
            self.times.append(time.perf_counter())
            self.cpu.append(time.process_time())
            self.losses.append(values["loss"])
            if len(self.losses) == self.steps:
                raise Enough


class MarkovSamples:
    """A language of 8 likely successors a token, each half as likely as the one before; sample i is row i."""

    def __init__(self, vocabulary: int, length: int, samples: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        successors = random.integers(vocabulary, size=(vocabulary, 8))
        likely = 0.5 ** np.arange(1, 9) / (1 - 0.5**8)
        self.rows = np.empty((samples, length + 1), dtype=np.int64)
        self.rows[:, 0] = random.integers(vocabulary, size=samples)
        for t in range(length):
            self.rows[:, t + 1] = successors[self.rows[:, t], random.choice(8, size=samples, p=likely)]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> NDArray[np.int64]:
        """[length + 1] tokens."""
        row: NDArray[np.int64] = self.rows[index]
        return row

    def __getitem__(self, index: int) -> dict[str, NDArray[np.int64]]:
        """The same for the peer: inputs, and targets that are shifted already."""
        row = self.rows[index]
        return {"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]}


class PairSamples(MarkovSamples):
    """The same over the first TOKENS of the vocabulary, but a token's successors depend on the one before it, too: attention
    and the experts have to learn them, since an embedding cannot."""

    TOKENS = 12

    def __init__(self, vocabulary: int, length: int, samples: int, seed: int) -> None:
        random, vocabulary = np.random.default_rng(seed), min(vocabulary, self.TOKENS)
        successors = random.integers(vocabulary, size=(vocabulary, vocabulary, 8))
        likely = 0.5 ** np.arange(1, 9) / (1 - 0.5**8)
        self.rows = np.empty((samples, length + 1), dtype=np.int64)
        self.rows[:, :2] = random.integers(vocabulary, size=(samples, 2))
        for t in range(1, length):
            drawn = random.choice(8, size=samples, p=likely)
            self.rows[:, t + 1] = successors[self.rows[:, t - 1], self.rows[:, t], drawn]


@dataclass(frozen=True)
class Order:
    """What all ranks of one run are told; `weights` is the folder of the initialize run."""

    kind: str
    recipe: Recipe
    folder: Path
    weights: Path
    steps: int
    seed: int
    language: type[MarkovSamples] = MarkovSamples
    scaling: BlockScaling | None = None  # in the place of what `fp8_emulated` is
    balanced: bool = False  # of ours: every expert gets as many tokens, whatever the router says


def main(path: str) -> None:
    """Run one rank; rank 0 writes `result.json`."""
    order: Order = pickle.loads(Path(path).read_bytes())
    rank = int(os.environ["RANK"])
    p = order.recipe.pretrain
    if order.kind == INITIALIZE:
        initialize(order)
        return
    if order.kind == PAIRS:
        from bare_step import run_pairs

        run_pairs(order, rank)
        return
    samples = order.language(
        order.recipe.model.vocab_size, p.sequence_length, order.steps * p.batch_tokens // p.sequence_length, order.seed
    )
    marks = Marks(order.steps if os.environ["WORLD_SIZE"] == "1" else 0)
    try:
        if order.kind == OURS:
            train_ours(order, samples, rank, marks)
        else:
            train_peer(order, samples, marks)
    except Enough:
        pass
    if rank == 0:
        result = {"losses": marks.losses, "times": marks.times, "cpu": marks.cpu, "gpu_bytes": [peak_gpu_bytes()]}
        (order.folder / "result.json").write_text(json.dumps(result))


def peak_gpu_bytes() -> int:
    """The most that tensors took on this rank's GPU; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def initialize(order: Order) -> None:
    """Fresh weights, in Megatron's form and as a Hugging Face folder."""
    import torch
    from safetensors.torch import save_file

    from athanor.models.conversions import correspondences
    from athanor.models.huggingface import configuration
    from athanor.models.torch_dist import ShardedCheckpoint
    from athanor.recipe.families import family_of
    from athanor.training.checkpoints import FINAL
    from athanor.training.initialization import initialize as initialize_model

    stage = StageRun(order.recipe, "initialize", "model", "", order.folder, {})
    initialize_model(stage, order.recipe)
    source = ShardedCheckpoint(order.folder / FINAL)
    tensors = {}
    for piece in correspondences(order.recipe.model, family_of(order.recipe.model)):
        parts = piece.split(source.read(piece.megatron, piece.index))
        tensors.update({name: t.contiguous() for (name, _), t in zip(piece.huggingface, parts, strict=True)})
    (order.folder / "model").mkdir()
    configuration(order.recipe.model, torch.float32, None, None).save_pretrained(order.folder / "model")
    save_file(tensors, order.folder / "model" / "model.safetensors", metadata={"format": "pt"})


def train_ours(order: Order, samples: MarkovSamples, rank: int, marks: Marks) -> None:
    """The training loop of `athanor stage pretrain`."""
    from athanor.training.checkpoints import FINAL
    from athanor.training.held_out import HeldOut
    from athanor.training.loop import train
    from athanor.training.task import Task

    p = order.recipe.pretrain
    if order.scaling is not None:
        EMULATED[Precision.FP8_EMULATED] = order.scaling
    if order.balanced:
        force_balance()
    stage = StageRun(order.recipe, "pretrain", "", "", order.folder, {}, rank, p.parallel.ranks, spool=marks)
    held_out = {"none": HeldOut(samples.rows[:1], 1)}
    end = (order.steps + (p.parallel.ranks == 1)) * p.batch_tokens  # one rank ends by Enough, before the last save
    train(stage, Task(p, order.weights / FINAL, end, lambda: samples, lambda: held_out))


def force_balance() -> None:
    """Have this process build models whose routers spread tokens evenly: Megatron's own switch for such measurements."""
    from athanor.models import language_model

    usual = language_model.transformer_config

    def balanced(*arguments: Any) -> Any:
        config = usual(*arguments)
        config.moe_router_force_load_balancing = True
        return config

    language_model.transformer_config = balanced


def train_peer(order: Order, samples: MarkovSamples, marks: Marks) -> None:
    """Hugging Face's Trainer with the same optimizer and schedule, its logging reduced to the loss.

    On a GPU its weights are bfloat16 through and through, without float32 masters: its fastest way.
    """
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from athanor.training.schedule import LearningRate

    p, on_cpu = order.recipe.pretrain, not torch.cuda.is_available()
    dtype = torch.float32 if on_cpu else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(order.weights / "model", experts_implementation=order.kind, dtype=dtype)
    decayed = [w for w in model.parameters() if w.ndim > 1]
    rest = [w for w in model.parameters() if w.ndim == 1]
    o, rate = p.optimizer, LearningRate.of(p)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=p.lr, betas=(o.beta1, o.beta2), eps=o.epsilon, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate((step + 1) * p.batch_tokens) / p.lr)

    class Record(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _arguments: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            marks.metrics(0, logs)

    ranks = int(os.environ["WORLD_SIZE"])
    rows = p.batch_tokens // p.sequence_length // ranks
    at_once = rows if on_cpu else p.parallel.micro_batch_size
    arguments = TrainingArguments(
        output_dir=str(order.folder / "trainer"),
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu else None,
        ddp_find_unused_parameters=True,  # an expert may get no token
        max_steps=order.steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=rows // at_once,
        max_grad_norm=o.clip_grad,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
    )
    Trainer(model=model, args=arguments, train_dataset=samples, optimizers=(optimizer, schedule), callbacks=[Record()]).train()


if __name__ == "__main__":
    main(sys.argv[1])
