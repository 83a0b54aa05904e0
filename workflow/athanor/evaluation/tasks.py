"""What a task is, and how it is written so that lm-eval's own command runs it: a YAML file and JSON lines beside it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from athanor.artifacts.files import write_atomically
from athanor.recipe.schema.choices import Suite

LOADER = Path(__file__).with_name("local_data.py")
README = "README.md"
TASK_VERSION = 1
Row = Mapping[str, Any]
Item = TypeVar("Item")


class SuiteError(Exception):
    """A suite that cannot be made of the documents at hand: what is missing, and the way out."""


class Document(Protocol):
    """A held-out or training document, as the data room reads them."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def entity(self) -> str: ...


class OutputType(StrEnum):
    """How lm-eval asks the model."""

    LOGLIKELIHOOD_ROLLING = "loglikelihood_rolling"  # rows {id, text}
    MULTIPLE_CHOICE = "multiple_choice"  # rows {id, prompt, choices, answer}


@dataclass(frozen=True)
class Metric:
    """One of lm-eval's metrics, and what guessing gives."""

    name: str
    higher_is_better: bool
    chance: float | None = None


@dataclass(frozen=True)
class Task:
    """One lm-eval task: its questions, how they are put, what is measured."""

    suite: Suite
    name: str
    output_type: OutputType
    rows: Sequence[Row]
    metrics: tuple[Metric, ...]
    counts: Mapping[str, int] = field(default_factory=dict)  # what was left out, for the manifest
    delimiter: str = " "  # between prompt and choice


def write_task(task: Task, folder: Path) -> None:
    """`NAME.jsonl` and `NAME.yaml` in `folder`, with the loader they need."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) for row in task.rows)
    write_atomically(folder / f"{task.name}.jsonl", "".join(f"{line}\n" for line in lines))
    write_atomically(folder / f"{task.name}.yaml", _yaml(task))
    shutil.copyfile(LOADER, folder / LOADER.name)


def write_readme(folder: Path, names: Iterable[str]) -> None:
    """How to repeat the scores by hand."""
    command = (
        f"lm_eval run --model hf --model_args pretrained=MODEL_FOLDER --include_path SUITES_FOLDER \\\n"
        f"  --tasks {','.join(sorted(names))} --batch_size 16"
    )
    write_atomically(folder / README, f"# The questions behind scores.json\n\n```\n{command}\n```\n")


def choose(items: Iterable[Item], limit: int, seed: int, name: Callable[[Item], str]) -> list[Item]:
    """`limit` of the items (0: all) in an order that depends only on their names and the seed."""

    def order(item: Item) -> bytes:
        return hashlib.blake2b(f"{seed}\0{name(item)}".encode(), digest_size=16, person=b"evaluate").digest()

    chosen = sorted(items, key=order)
    return chosen[:limit] if limit else chosen


def _yaml(task: Task) -> str:
    questions = {"doc_to_text": "", "doc_to_target": "text"}
    if task.output_type is OutputType.MULTIPLE_CHOICE:
        questions = {"doc_to_text": "prompt", "doc_to_choice": "choices", "doc_to_target": "answer"}
    config = {
        "task": task.name,
        "output_type": str(task.output_type),
        "dataset_kwargs": {"file": f"{task.name}.jsonl"},
        "test_split": "test",
        **questions,
        "num_fewshot": 0,
        "target_delimiter": task.delimiter,
        "metric_list": [_metric(metric) for metric in task.metrics],
        "metadata": {"version": TASK_VERSION},
    }
    return f"custom_dataset: !function {LOADER.stem}.load\n" + yaml.safe_dump(config, sort_keys=False)


def _metric(metric: Metric) -> dict[str, Any]:
    aggregation = {"acc": "mean", "acc_norm": "mean", "bits_per_byte": "bits_per_byte"}.get(metric.name, "weighted_perplexity")
    return {"metric": metric.name, "aggregation": aggregation, "higher_is_better": metric.higher_is_better}
