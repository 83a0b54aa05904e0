"""Conversion on a person's request: every problem in one report before work begins, progress, and a result that is whole."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from athanor.artifacts.files import sha256_of, write_json
from athanor.models.conversions import ConversionError
from athanor.models.folder_files import FolderError
from athanor.models.huggingface_folder import open_folder
from athanor.models.import_huggingface import lack_of_room, no_room, plan_import
from athanor.models.origin import HUGGINGFACE, ORIGIN_FILE, Origin, OriginError, open_origin
from athanor.models.restore import Restoration, plan_restore, restore
from athanor.models.safetensors_file import SafetensorsError
from athanor.models.torch_dist import CheckpointError
from athanor.models.weight_files import ExportError
from athanor.recipe.families import ConfigError, differences
from athanor.recipe.loading import load_resolved
from athanor.recipe.schema.training import Model
from athanor.training.checkpoints import FINAL, STATE
from athanor.training.importing import write_import

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PLAN = ".plan.json"
RECIPE = "plan.yaml"  # in the folder of every artifact
SAY_EVERY_SECONDS = 2.0


class ConvertError(Exception):
    """Why nothing was converted, or not all."""


@dataclass(frozen=True)
class Wishes:
    """What the caller asked for; 0 and None are no wish."""

    vocab_size: int = 0
    experts: int = 0
    experts_per_token: int = 0
    seed: int = 0
    dtype: str | None = None
    like: Path | None = None

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The type of the weights, where one was asked for."""
        return DTYPES[self.dtype] if self.dtype else None

    @property
    def growth(self) -> list[str]:
        """Options that make a model larger, as they were written."""
        named = {"--vocab-size": self.vocab_size, "--experts": self.experts, "--experts-per-token": self.experts_per_token}
        return [option for option, value in named.items() if value]


def to_megatron(source: Path, out: Path, wishes: Wishes) -> str:
    """Make OUT/checkpoint and OUT/huggingface of a Hugging Face folder; a line that says what came out. Raises
    ConvertError."""
    problems = [*_taken(out / FINAL)]
    if wishes.like:
        problems.append("--like says where a checkpoint came from; it has no meaning for a Hugging Face folder")
    with _told():
        try:
            folder = open_folder(source)
            problems += _not_wanted(wishes, folder.described.model)
            plan = plan_import(folder, _grown(folder.described.model, wishes), wishes.seed, wishes.torch_dtype)
        except FolderError as error:
            raise FolderError(source, [*problems, *error.problems]) from error
        if lack := no_room(plan, out):
            problems.append(lack)
        if problems:
            raise FolderError(source, problems)
        say = _Progress(1e9, "GB")
        write_import(plan, out, say)
        return f"{out / FINAL}: {plan.parameters:,} parameters, {plan.checkpoint_bytes / 1e9:.3g} GB in {say.seconds:.0f} s"


def to_huggingface(source: Path, out: Path, wishes: Wishes) -> str:
    """Make the Hugging Face folder OUT of an import or of a stage's checkpoint; a line that says what came out. Raises
    ConvertError."""
    problems = [*_taken(out), *(f"{option} is for conversion to megatron; leave it out" for option in wishes.growth)]
    with _told():
        origin, model = _origin_and_model(source, wishes, problems)
        plan = plan_restore(source / FINAL, model, origin, wishes.torch_dtype)
        if lack := lack_of_room(out, plan.bytes):
            problems.append(lack)
        if problems:
            raise FolderError(source, problems)
        beside = out.absolute().with_name(f".{out.name}.writing")
        _begin(beside, {"checkpoint": sha256_of(source / FINAL / STATE), "dtype": wishes.dtype, "like": _identity(origin)})
        disable_progress_bar()  # of loading the result for its proof
        say = _Progress(1, "weight files")
        restore(plan, beside, say)
        (beside / PLAN).unlink()
        os.replace(beside, out)
        return _summary(out, plan, say)


def _taken(out: Path) -> Iterator[str]:
    if out.exists():
        yield f"{out} exists already; choose another folder, or delete it"


def _not_wanted(wishes: Wishes, before: Model) -> Iterator[str]:
    """Wishes that contradict each other or the folder, beyond what a recipe could say."""
    if wishes.experts_per_token and not wishes.experts:
        yield f"--experts-per-token {wishes.experts_per_token}: there are no new experts; give --experts, too"
    if wishes.experts and before.num_experts:
        yield f"--experts {wishes.experts}: the folder's layers have {before.num_experts} experts already; leave it out"
    chosen = wishes.experts_per_token or 2
    if wishes.experts and not 2 <= chosen <= wishes.experts:
        yield f"--experts {wishes.experts} --experts-per-token {chosen}: from 2 to {max(2, wishes.experts)} are chosen of them"


def _grown(before: Model, wishes: Wishes) -> Model:
    model = replace(before, vocab_size=wishes.vocab_size or before.vocab_size)
    if wishes.experts and not before.num_experts:
        model = replace(model, num_experts=wishes.experts, experts_per_token=wishes.experts_per_token or 2)
    return model


def _origin_and_model(source: Path, wishes: Wishes, problems: list[str]) -> tuple[Origin, Model]:
    """The folder to put the decoder back into, and what the decoder is. Raises FolderError with `problems` and its own."""
    if not (source / FINAL / STATE).is_file():
        problems.append(f"no {FINAL}/{STATE} and no config.json: neither a checkpoint's folder nor a Hugging Face one")
    like = wishes.like or source / HUGGINGFACE
    if not like.is_dir():
        problems.append(f"{like} is not there: say with --like which Hugging Face folder the checkpoint came from")
    if problems:
        raise FolderError(source, problems)
    origin = open_origin(like)
    own = source / HUGGINGFACE / ORIGIN_FILE
    if own.is_file():
        model = open_origin(own.parent).model
    elif (source / RECIPE).is_file():
        model = load_resolved(source / RECIPE).model
    else:
        model = None
    if model is None:
        raise FolderError(source, [*problems, f"neither {HUGGINGFACE}/{ORIGIN_FILE} nor {RECIPE} says what model this is"])
    problems += [
        f"{like} is of another model: {key} is {value}; {advice}"
        for key, value, advice in differences(model, origin.described.model)
    ]
    if problems:
        raise FolderError(source, problems)
    return origin, model


def _identity(origin: Origin) -> str:
    return json.dumps([str(origin.path.absolute()), {name: len(header.text) for name, header in origin.headers.items()}])


def _begin(beside: Path, plan: dict[str, object]) -> None:
    """Keep what the same call left when it was killed; anything else goes."""
    if not (beside / PLAN).is_file() or json.loads((beside / PLAN).read_text()) != plan:
        shutil.rmtree(beside, ignore_errors=True)
        write_json(beside / PLAN, plan)


def _summary(out: Path, plan: Restoration, say: "_Progress") -> str:
    same = ", in the files and types it came in" if plan.same_layout else ""
    return f"{out}: {len(plan.layout)} weight files, {plan.bytes / 1e9:.3g} GB{same}, in {say.seconds:.0f} s"


class _Progress:
    """Says on stderr how far a conversion is."""

    def __init__(self, unit: float, name: str) -> None:
        self._unit, self._name = unit, name
        self._began = self._said = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said >= SAY_EVERY_SECONDS:
            self._said = time.monotonic()
            print(f"{done / self._unit:.3g} of {total / self._unit:.3g} {self._name}", file=sys.stderr, flush=True)


@contextmanager
def _told() -> Iterator[None]:
    """Everything that conversion can find wrong, as what the command prints."""
    try:
        yield
    except (FolderError, ConfigError, OriginError, CheckpointError, ExportError, ConversionError, SafetensorsError) as error:
        raise ConvertError(str(error)) from error
