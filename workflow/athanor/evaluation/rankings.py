"""What was learnt from pairs: how well reward models rank what they have not seen, and preference learning's losses."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.strict_json import number
from athanor.recipe.graph import UNTRAINED

ACCURACY_FILE = "accuracy.json"
UNSEEN = "unseen_policies"  # texts of policies that training never saw, behind held-out prefixes
CHOSEN = "right/"  # metrics of stage score: how often the answer that it chooses is right


@dataclass(frozen=True)
class Ranking:
    """The share of triples that are ranked right, with a 95 % interval."""

    ranker: str  # the training that made it, or what needs none: bigrams, embeddings, length
    of: str  # what is ranked
    triples: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Chosen:
    """How often the answer of the highest reward is right, of a task's questions that the reward model has not learnt from."""

    task: str
    chosen: float
    any: float  # an answer taken by chance
    possible: float  # a right one wherever there is one


@dataclass(frozen=True)
class PairLoss:
    """Preference learning's loss of a task's pairs that were not learnt from, before (the model is its reference) and behind."""

    model: str
    task: str
    pairs: int
    before: float
    behind: float


def read_rankings(ranker: str, folder: Path) -> list[Ranking]:
    """What a training of the reward model told."""
    told = json.loads((folder / ACCURACY_FILE).read_text())
    untrained = told.pop(UNTRAINED)
    ranked = [(ranker, of, row) for of, row in told.items()] + [(name, UNSEEN, row) for name, row in untrained.items()]
    return [Ranking(who, of, int(r["triples"]), float(r["rate"]), float(r["low"]), float(r["high"])) for who, of, r in ranked]


def chosen_of(task: str, metrics: Mapping[str, float]) -> list[Chosen]:
    """What stage `score` counted of one task; nothing where no question was put aside."""
    found = {name.removeprefix(CHOSEN): rate for name, rate in metrics.items() if name.startswith(CHOSEN)}
    return [Chosen(task, **found)] if found else []


def read_pair_losses(model: str, folder: Path) -> list[PairLoss]:
    """What a preference learning measured, a row a task."""
    behind, before = (json.loads((folder / name).read_text()) for name in ("validation.json", "validation_start.json"))
    return [
        PairLoss(model, task, int(row["tokens"]), number(before[task]["nats_per_token"]), number(row["nats_per_token"]))
        for task, row in sorted(behind.items())
    ]
