"""Fine-tuning of a dense language model in its Hugging Face form: from a folder to a folder, on packed conversations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from athanor.models.virtual_tokens import virtual_ids
from athanor.recipe.schema.choices import PeftKind, Precision
from athanor.recipe.schema.training import Peft, Training, Zero
from athanor.training.deepspeed.adapters import ADAPTER, adapted, merge
from athanor.training.deepspeed.four_bits import read_in_four_bits, round_to_four_bits
from athanor.training.deepspeed.model_folder import copy_tokenizer, read_model, write_model
from athanor.training.deepspeed.prompts import first_ids, prompt_tuned, write_with_rows
from athanor.training.deepspeed.task import BatchReader, Measured, ModuleTask
from athanor.training.deepspeed.windows import PackedBatches, PackedReader, drawn_losses, response_losses
from athanor.training.held_out import HeldOut
from athanor.training.rounds import Weights
from athanor.training.samples import Sample


def fine_tuning(
    settings: Training,
    zero: Zero,
    peft: Peft,
    start: Path,
    samples: Callable[[], PackedReader],
    held_out: Callable[[], Mapping[str, HeldOut]],
) -> ModuleTask:
    """The task of training the folder `start` on `samples` to the end of the budget.

    Every conversation begins with the virtual tokens that `start` has, or that `peft` trains. Raises StageError where the
    vocabulary has no room for these.
    """
    had = virtual_ids(start)
    ids = first_ids(start, peft.tokens) if peft.kind is PeftKind.PROMPT else had

    def measured_behind(ids: Sequence[int]) -> dict[str, Measured]:
        return {domain: measured(held, ids) for domain, held in held_out().items()}

    return ModuleTask(
        settings=settings,
        zero=zero,
        end_tokens=settings.token_budget,
        module=lambda: _module(start, peft, settings.precision, ids, fresh=not had),
        batches=lambda: PackedBatches(samples(), ids),
        loss=response_losses,
        sampled_loss=drawn_losses,
        held_out=lambda: measured_behind(ids),
        held_out_before=None if ids == had else lambda: measured_behind(had),
        write=lambda weights, folder: _write(start, peft, weights, folder),
    )


def _module(start: Path, peft: Peft, precision: Precision, ids: tuple[int, ...], *, fresh: bool) -> torch.nn.Module:
    if peft.kind is PeftKind.QLORA:
        return adapted(read_in_four_bits(start, precision), peft)
    model = read_model(start)
    if peft.kind is PeftKind.NONE:
        return model
    return prompt_tuned(model, ids, fresh=fresh) if peft.kind is PeftKind.PROMPT else adapted(model, peft)


def _write(start: Path, peft: Peft, weights: Weights, folder: Path) -> None:
    if peft.kind is PeftKind.NONE:
        write_model(start, weights, folder)
    elif peft.kind is PeftKind.PROMPT:
        copy_tokenizer(start, folder)
        write_with_rows(read_model(start), weights, start, folder, folder / ADAPTER)
    else:
        write_merged(start, peft, weights, folder)


def by_domain(task: ModuleTask, domains: tuple[str, ...], domain: Callable[[Any, int], str]) -> ModuleTask:
    """The same, telling losses by `domain` of a sample of what `samples` gave."""

    def of(batches: BatchReader, index: int) -> str:
        assert isinstance(batches, PackedBatches)
        return domain(batches.reader, index)

    return replace(task, domains=domains, domain=of)


def write_merged(start: Path, peft: Peft, weights: Weights, folder: Path) -> None:
    """The folder `start` with the adapter merged into its weights (rounded ones, where it was trained beside these), and the
    adapter itself in `adapter/`."""
    model = read_model(start)
    if peft.kind is PeftKind.QLORA:
        round_to_four_bits(model, start)
    merge(adapted(model, peft), weights, folder / ADAPTER).save_pretrained(folder)
    copy_tokenizer(start, folder)


class _Listed:
    """Held-out windows by their number."""

    def __init__(self, samples: HeldOut) -> None:
        self._samples = samples.samples

    def sample(self, index: int) -> Sample:
        return self._samples[index]


def measured(held_out: HeldOut, first: Sequence[int] = ()) -> Measured:
    """Held-out windows as batches, the ids `first` before each conversation."""
    return Measured(PackedBatches(_Listed(held_out), first), len(held_out.samples), held_out.bytes)  # type: ignore[arg-type]
