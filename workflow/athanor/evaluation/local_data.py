"""Loads a task's questions from the JSON lines beside its YAML: copied into every suites/ folder, run by lm-eval there.

lm-eval's own `dataset_path: json` resolves file names against the current folder; this finds them from anywhere, and
leaves nothing in a datasets cache. It must not import athanor.
"""

import json
from pathlib import Path
from typing import Any

import datasets


def load(file: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The split `test` of a task: one row a line of `file`. lm-eval passes the task's metadata as well; it is not needed."""
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").split("\n")
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])}
