"""How difficult the training questions of fine-tuning are, by every node of the tasks' taxonomy."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from athanor.recipe.schema.choices import Difficulty


@dataclass(frozen=True)
class NodeDifficulty:
    """The labelled questions of all tasks below one node of the taxonomy, and what fine-tuning learns of them."""

    node: tuple[str, ...]  # one level or more, from the field to the skill
    labelled: int
    unsolved: int
    hard: int
    medium: int
    easy: int
    dropped: int
    kept_by_floor: int
    repeats: int  # conversations that are learnt beyond their first time
    rephrased: int  # of them those that ask in other words
    pass_rate: float  # mean over the questions

    def share(self, level: Difficulty) -> float:
        """Of the questions, those of a level."""
        return int(getattr(self, level.value)) / self.labelled


def read_difficulty(taxonomy: Sequence[str], path: Path) -> NodeDifficulty:
    """What stage `curation` counted of one task."""
    found = json.loads(path.read_text())
    return NodeDifficulty(tuple(taxonomy), **{f.name: found[f.name] for f in fields(NodeDifficulty)[1:]})


def by_node(tasks: Sequence[NodeDifficulty]) -> list[NodeDifficulty]:
    """A row for every node above a task and the tasks' own, each node before what is below it."""
    nodes = sorted({task.node[:depth] for task in tasks for depth in range(1, len(task.node) + 1)})
    return [_sum(node, [task for task in tasks if task.node[: len(node)] == node]) for node in nodes]


def difficulty_metrics(nodes: Sequence[NodeDifficulty]) -> Iterator[tuple[str, float]]:
    """Pass rate and share of every level by node: `mathematics/arithmetic/hard`."""
    for node in nodes:
        name = "/".join(part.replace(" ", "_") for part in node.node)
        yield f"difficulty/{name}/pass_rate", node.pass_rate
        yield from ((f"difficulty/{name}/{level}", node.share(level)) for level in Difficulty)


def _sum(node: tuple[str, ...], tasks: Sequence[NodeDifficulty]) -> NodeDifficulty:
    counts = {f.name: sum(getattr(task, f.name) for task in tasks) for f in fields(NodeDifficulty)[1:-1]}
    return NodeDifficulty(node, **counts, pass_rate=sum(t.pass_rate * t.labelled for t in tasks) / counts["labelled"])
