"""Pretraining by transformers' Trainer, as another trainer than Athanor's own (docs/handing-over.md).

    pretrain:
      external:
        command: python examples/transformers/pretrain.py {handover}
        files: [examples/transformers/pretrain.py]
        version: python -c "import transformers; print('transformers', transformers.__version__)"
        settings: {learning_rate: 1.0e-3, warmup_steps: 10, windows_a_step: 16}

Settings are fields of TrainingArguments, and `windows_a_step` of all ranks together: what is learnt must not depend on how many
ranks there are, which a resume may change. Windows come in the order in which Athanor's own trainer reads them. Nothing balances
a router here: what Megatron adds to the loss for that is not added.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from athanor.data.mixture import Mixture
from athanor.external.contract import Corpus, Handover
from athanor.external.trainers import Watch, resumed

WINDOWS_A_STEP = 64


class Windows(Dataset):
    """The samples from `first` on."""

    def __init__(self, corpus: Corpus, seed: int, count: int) -> None:
        shards = {name: [Path(folder) for folder in folders] for name, folders in corpus.shards.items()}
        self._mixture = Mixture(shards, corpus.mixture, corpus.sequence_length, seed)
        self._first, self._count = corpus.tokens // corpus.sequence_length, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(self._mixture.sample(self._first + place))
        return {"input_ids": tokens[:-1], "labels": tokens[1:], "shift_labels": tokens[1:]}


def main(path: Path) -> int:
    """Train as the handover says; the exit code says whether that is done."""
    handover = Handover.read(path)
    corpus = handover.corpus
    if corpus is None:
        sys.exit(f"{path} asks for {handover.stage}, and this program pretrains")
    arguments = configured(handover, corpus)
    a_step = windows_a_step(handover)
    watch = Watch(handover, a_step * corpus.sequence_length)
    watch.listen()
    model, checkpoint = resumed(handover)
    windows = Windows(corpus, handover.seed, arguments.max_steps * a_step)
    trainer = Trainer(model, arguments, train_dataset=windows, callbacks=[watch])
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < arguments.max_steps:
        return handover.stop.exit_code
    if PartialState().is_main_process:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(handover.output)
    return 0


def windows_a_step(handover: Handover) -> int:
    """Of all ranks together."""
    return int(handover.settings.get("windows_a_step", WINDOWS_A_STEP))


def configured(handover: Handover, corpus: Corpus) -> TrainingArguments:
    """The settings, and what follows from the handover. Exits where they contradict it."""
    settings, ranks = dict(handover.settings), int(os.environ.get("WORLD_SIZE", "1"))
    settings.pop("windows_a_step", None)
    a_step, passes = windows_a_step(handover), int(settings.get("gradient_accumulation_steps", 1))
    if a_step % (ranks * passes):
        sys.exit(f"windows_a_step={a_step}: does not cut into {passes} passes of {ranks} ranks")
    steps = math.ceil((handover.budget.tokens - corpus.tokens) / (a_step * corpus.sequence_length))
    decided: dict[str, Any] = {
        "output_dir": handover.checkpoints,
        "seed": handover.seed,
        "per_device_train_batch_size": a_step // (ranks * passes),
        "max_steps": steps,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if both := sorted(settings.keys() & decided.keys()):
        sys.exit(f"pretrain.external.settings.{both[0]} follows from the recipe; leave it out")
    usual = {
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "save_strategy": "steps",
        "save_steps": 500,
        "save_total_limit": 2,
    }
    arguments = TrainingArguments(**{**usual, **settings, **decided})
    if arguments.world_size != ranks:
        sys.exit(f"{ranks} ranks were started, and {arguments.world_size} found each other: is accelerate configured otherwise?")
    return arguments


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
