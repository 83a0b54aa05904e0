"""Preference learning as a task of this loop: what a pair or an answer costs is trl's to say, batches follow from positions.

Of trl the collators and the losses are used, but for right answers' own loss, which it means over a micro-batch's tokens. Its
loop neither proves its saves nor ends a killed run in the same bytes.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar as disable_progress_bars
from transformers import PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from athanor.recipe.schema.choices import Precision, PreferenceKind
from athanor.recipe.schema.post_training import Preference
from athanor.training.deepspeed.model_folder import read_model, write_model
from athanor.training.deepspeed.task import Batch, Measured, ModuleTask
from athanor.training.world import ON_CPU


@dataclass(frozen=True)
class TokenPair:
    """A prompt and two answers to it, as token ids; the end of a turn belongs to the answer."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt with the longer answer."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def preference_learning(
    settings: Preference,
    start: Path,
    padding: int,
    pairs: Callable[[], Sequence[TokenPair]],
    order: Callable[[int, int], int],
    measured: Callable[[], Mapping[str, Sequence[TokenPair]]],
) -> ModuleTask:
    """The task of training the folder `start` on `pairs` to the end of the budget; the same folder is the reference.

    `order(sample, size)` says which of so many samples the one of this number is; numbers go on through the epochs.
    """
    loss = _Loss(settings, start)
    batches = Pairs if settings.kind is PreferenceKind.DPO else Answers
    held_out = {PreferenceKind.DPO: 1, PreferenceKind.KTO: 2}[settings.kind]
    return ModuleTask(
        settings=settings,
        zero=settings.zero,
        end_tokens=settings.token_budget,
        module=loss.make_module,
        batches=lambda: batches(pairs(), padding, order),
        loss=loss,
        held_out=lambda: {
            domain: Measured(batches(kept, padding, _as_they_are), held_out * len(kept)) for domain, kept in measured().items()
        },
        write=lambda weights, folder: write_model(start, weights, folder),
        loss_of="sample",
    )


def _as_they_are(sample: int, size: int) -> int:
    return sample % size


class Pairs:
    """Batches of DPO: a sample is a pair."""

    def __init__(self, pairs: Sequence[TokenPair], padding: int, order: Callable[[int, int], int]) -> None:
        self._pairs, self._order = pairs, order
        self._collate = DataCollatorForPreference(padding)

    def batch(self, samples: Sequence[int]) -> Batch:
        """`input_ids`, `attention_mask` and `completion_mask` [2 samples, seq]: the answers to prefer, then the others."""
        chosen = [self._pairs[self._order(sample, len(self._pairs))] for sample in samples]
        rows = [{"prompt_ids": [*p.prompt], "chosen_ids": [*p.chosen], "rejected_ids": [*p.rejected]} for p in chosen]
        return Batch(self._collate(rows), torch.ones(len(rows), dtype=torch.float64))


class Answers:
    """Batches of KTO: a sample is an answer, which is good or bad; two of each pair."""

    def __init__(self, pairs: Sequence[TokenPair], padding: int, order: Callable[[int, int], int]) -> None:
        self._pairs, self._order = pairs, order
        self._collate = DataCollatorForUnpairedPreference(padding)

    def batch(self, samples: Sequence[int]) -> Batch:
        """Beside the answers, `label` [samples], the `KL_` sequences: each prompt with the answer of the one before it, by which
        trl estimates how far the model has gone from the reference."""
        rows = [self._row(self._order(sample, 2 * len(self._pairs))) for sample in samples]
        others = [row["completion_ids"] for row in [rows[-1], *rows[:-1]]]
        crossed = [{**row, "KL_completion_ids": other} for row, other in zip(rows, others, strict=True)]
        return Batch(self._collate(crossed), torch.ones(len(rows), dtype=torch.float64))

    def _row(self, answer: int) -> dict[str, Any]:
        pair, bad = self._pairs[answer // 2], bool(answer % 2)
        return {"prompt_ids": [*pair.prompt], "completion_ids": [*(pair.rejected if bad else pair.chosen)], "label": not bad}


class _Loss:
    """trl's, of the module that this makes; the reference model is a second copy on every rank."""

    def __init__(self, settings: Preference, start: Path) -> None:
        self._settings, self._start = settings, start
        self._said: torch.Tensor | None = None  # the module's last log-probabilities [2 samples, seq] of the tokens it read

    def make_module(self) -> torch.nn.Module:
        """The model that learns, with the head that trl computes log-probabilities by: fresh with every call."""
        self.__dict__.pop("_trainer", None)
        module: torch.nn.Module = self._trainer.model
        if self._settings.nll_weight:
            module.register_forward_hook(self._keep)
        return module

    def __call__(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples]: trl means over the micro-batch, so each is given the mean. Measured is what pairs say alone."""
        mean = self._trainer.compute_loss(module, dict(batch.tensors))
        for metrics in self._trainer._metrics.values():  # it keeps what its own loop would log
            metrics.clear()
        loss: torch.Tensor = mean.expand(len(batch.weights))
        if self._settings.nll_weight and torch.is_grad_enabled():
            loss = loss + self._settings.nll_weight * self._losses_of_chosen(batch)
        return loss

    def _keep(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        self._said = output.log_probs

    def _losses_of_chosen(self, batch: Batch) -> torch.Tensor:
        """[samples]: nats, mean over each right answer's tokens."""
        assert self._said is not None
        said, self._said = self._said, None
        counts = batch.tensors["completion_mask"][: len(batch.weights), 1:].to(said.dtype)
        of_chosen = said[: len(batch.weights), -counts.shape[1] :]
        return -(of_chosen * counts).sum(dim=1) / counts.sum(dim=1)

    @cached_property
    def _trainer(self) -> Any:
        """A trainer whose loop never runs: it wants a dataset, and is given one that nobody reads."""
        model, reference = read_model(self._start), read_model(self._start).requires_grad_(False)
        if self._settings.precision is Precision.BF16:
            reference = reference.bfloat16()
        shared: dict[str, Any] = {
            "output_dir": tempfile.gettempdir(),
            "beta": self._settings.beta,
            "router_aux_loss_coef": 0.0,  # it is of a micro-batch, whose size would then decide the result
            "gradient_checkpointing": False,
            "bf16": False,  # DeepSpeed casts
            "use_cpu": ON_CPU,
            "report_to": "none",
            "per_device_train_batch_size": self._settings.parallel.micro_batch_size,
        }
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._start)
        whole = tokenizer.pad_token  # no answer can grow together with it
        disable_progress_bars()
        trainer: Any
        if self._settings.kind is PreferenceKind.DPO:
            unread = Dataset.from_list([{"prompt": whole, "chosen": "b", "rejected": "c"}])
            trainer = DPOTrainer(model, reference, DPOConfig(**shared), train_dataset=unread, processing_class=tokenizer)
        else:
            unread = Dataset.from_list([{"prompt": whole, "completion": "b", "label": True}])
            trainer = KTOTrainer(model, reference, KTOConfig(**shared), train_dataset=unread, processing_class=tokenizer)
        trainer.accelerator = _Alone(trainer.accelerator.device)
        return trainer


class _Alone:
    """Accelerate's, for a loss that asks no other rank.

    What trl gathers is for its log, and ends the job where a rank's last batch is shorter than another's. KTO's divergence is
    that of the micro-batch, so that the number of ranks does not decide the result.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's."""
        return tensor

    gather_for_metrics = gather
