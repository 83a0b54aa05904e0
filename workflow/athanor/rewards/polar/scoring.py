"""Rewards of texts by a trained model: in batches of like length, and into files that a killed stage goes on from."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from athanor.artifacts.run import StageError
from athanor.rewards.polar.model import load_reward_model, saved_marks
from athanor.rewards.polar.pairs import padded
from athanor.rewards.polar.template import Item, without_thoughts
from athanor.rewards.polar.triples import Triple

SCHEMA_VERSION = 1
TOKENS_AT_ONCE = 16_384


class Scorer:
    """A reward model's folder, ready to score; in float32 on a CPU."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._marked = saved_marks(folder)
        self._model = load_reward_model(folder, self._device)

    def encode(self, item: Item) -> list[int]:
        """The ids of an item, as the template has them; what was thought before an answer is no part of it."""
        texts = (item.prompt, without_thoughts(item.reference), without_thoughts(item.candidate))
        prompt, reference, candidate = self._marked.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return self._marked.template.sequence(prompt, reference, candidate)

    def score(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each sequence [rows]. Raises ValueError where one is no number."""
        found = [math.nan] * len(rows)
        for places in _batches(rows):
            for place, score in zip(places, self._forward([rows[place] for place in places]), strict=True):
                found[place] = score
        if wrong := [place for place, score in enumerate(found) if not math.isfinite(score)]:
            raise ValueError(f"{len(wrong)} of {len(rows)} scores are no numbers, first item {wrong[0]}; look at the model")
        return found

    def score_items(self, items: Sequence[Item]) -> list[float]:
        """The reward of each item."""
        return self.score([self.encode(item) for item in items])

    def score_triples(self, triples: Sequence[Triple]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The rewards of the candidates and of the others [triples], each beside its reference."""
        template = self._marked.template
        rows = [template.sequence(t.prefix, t.reference, t.candidate) for t in triples]
        rows += [template.sequence(t.prefix, t.reference, t.other) for t in triples]
        scores = np.array(self.score(rows))
        return scores[: len(triples)], scores[len(triples) :]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        tensors = {name: tensor.to(self._device) for name, tensor in padded(rows, self._marked.padding).items()}
        scores: list[float] = self._model(**tensors).logits[:, 0].double().tolist()
        return scores


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of rows of like length, at most TOKENS_AT_ONCE tokens together but at least one row."""
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: (len(rows[place]), place)):
        if batch and (len(batch) + 1) * len(rows[place]) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@dataclass(frozen=True)
class Scoring:
    """By what is scored: the first line of every shard, so that no score is without its model."""

    model: str  # fingerprint of the reward model's artifact
    items_a_shard: int = 1024


def score_into_shards(
    items: Sequence[tuple[str, Item]],
    scoring: Scoring,
    scorer: Callable[[], Scorer],
    folder: Path,
    on_shard: Callable[[int, int], None],
) -> list[Path]:
    """Score named items into shards below `folder`, each there whole or not at all; those of an earlier attempt are kept.

    `scorer` is called once something is to be scored; `on_shard` is told (items done, items in all). Raises StageError where a
    shard is of another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(scoring)}, sort_keys=True)
    paths: list[Path] = []
    loaded: Scorer | None = None
    for begin in range(0, len(items), scoring.items_a_shard):
        some = items[begin : begin + scoring.items_a_shard]
        path = folder / f"shard-{begin // scoring.items_a_shard:05d}.jsonl"
        if path.is_file():
            _require(path, header)
        else:
            loaded = loaded or scorer()
            scores = loaded.score_items([item for _, item in some])
            rows = [json.dumps({"id": name, "score": score}) for (name, _), score in zip(some, scores, strict=True)]
            partial = path.with_name(path.name + ".partial")
            partial.write_text("".join(f"{line}\n" for line in (header, *rows)), encoding="utf-8")
            os.replace(partial, path)
        paths.append(path)
        on_shard(begin + len(some), len(items))
    return paths


def read_scores(paths: Sequence[Path]) -> dict[str, float]:
    """Scores by the item's name."""
    found = {}
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            next(lines)
            found.update({row["id"]: row["score"] for row in map(json.loads, lines)})
    return found


def _require(path: Path, header: str) -> None:
    with path.open(encoding="utf-8") as lines:
        found = next(lines, "").rstrip("\n")
    if found != header:
        raise StageError(f"{path} was scored with {found or 'nothing said'}, wanted is {header}; move it away to score anew")
