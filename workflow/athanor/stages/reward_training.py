"""What stages `reward_pretrain` and `reward_tune` have in common: a training, and how well it ranks what it has not seen."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageRun
from athanor.evaluation.rankings import ACCURACY_FILE, UNSEEN
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.graph import SECTIONS, UNTRAINED
from athanor.rewards.polar.accuracy import Accuracy, accuracy, wins
from athanor.rewards.polar.model import saved_marks
from athanor.rewards.polar.ranks import Ranked, rank_triples
from athanor.rewards.polar.scoring import Scorer
from athanor.rewards.polar.triples import Triple, respell
from athanor.stages.pretrain import failures_so_far
from athanor.stages.roster import tokenizer_of
from athanor.stages.triples import BASELINES_FILE, TEST_FILE
from athanor.training.deepspeed.loop import train
from athanor.training.deepspeed.pairs import Start, Triples, reward_training


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and what is measured beside the texts of unseen policies."""

    learnt: Triples
    held_out: Mapping[str, Triples]
    fine_tuned: bool


def train_on(stage: StageRun, lesson: Lesson) -> Outcome:
    """`model/`, a reward model's folder, from the artifact `start`; `accuracy.json`: how well it ranks, beside what needs no
    training."""
    settings = stage.recipe.reward_trainings()[SECTIONS[stage.stage]]
    folder = stage.input_named("start").folder / MODEL_FOLDER
    start = Start(folder, settings.sequence_length, lesson.fine_tuned, stage.recipe.seed)
    held_out = {UNSEEN: triples_of(stage, TEST_FILE), **lesson.held_out}
    task = reward_training(settings, start, lesson.learnt, held_out)
    outcome = train(stage, replace(task, failures=lambda: failures_so_far(stage)))
    if stage.rank:
        return outcome
    rates = {name: _rate(stage, triples) for name, triples in held_out.items()}
    untrained = json.loads((stage.input_named("triples").folder / BASELINES_FILE).read_text())
    told = {name: asdict(rate) for name, rate in rates.items()}
    write_json(stage.folder / ACCURACY_FILE, {**told, UNTRAINED: untrained})
    metrics = {f"{name}/accuracy{end}": value for name, rate in rates.items() for end, value in _ends(rate).items()}
    metrics |= {f"{UNSEEN}/untrained/{name}": float(rate["rate"]) for name, rate in untrained.items()}
    step = int(outcome.counters["step"])
    stage.spool.metrics(step, metrics)
    described = {"tokens": outcome.counters["tokens"], "lr": settings.lr, "batch_tokens": settings.batch_tokens}
    stage.spool.model(f"{stage.stage}-{stage.instance}", step, MODEL_FOLDER, described, "huggingface")
    return replace(outcome, files=(*outcome.files, ACCURACY_FILE), metrics={**outcome.metrics, **metrics})


def triples_of(stage: StageRun, name: str) -> Triples:
    """A file of stage `triples`. Its token ids are the backbone's, unless that has a tokenizer of its own: then its texts."""
    path = stage.input_named("triples").folder / name
    if "speaker" not in stage.inputs:
        return lambda _marked: [_triple(row) for row in _rows(path)]
    spoken = tokenizer_of(stage.input_named("speaker").folder / MODEL_FOLDER)
    return lambda marked: [respell(_triple(row), lambda tokens: str(spoken.decode(tokens)), marked.encode) for row in _rows(path)]


def ranks_of(path: Path) -> Triples:
    """A file of stage `ranks`, as triples."""
    ranked = [Ranked(row["id"], row["prompt"], tuple(row["answers"])) for row in _rows(path)]
    return lambda marked: list(rank_triples(ranked, marked.tokenizer))


def _rate(stage: StageRun, triples: Triples) -> Accuracy:
    """Of the trained model. What belongs to one prefix, or one question, is drawn together."""
    folder = stage.folder / MODEL_FOLDER
    some = triples(saved_marks(folder))
    ours, theirs = Scorer(folder).score_triples(some)
    return accuracy(wins(ours, theirs), [triple.prefix_id.partition("#")[0] for triple in some], stage.recipe.seed)


def _ends(rate: Accuracy) -> dict[str, float]:
    return {"": rate.rate, "_low": rate.low, "_high": rate.high}


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _triple(row: Mapping[str, Any]) -> Triple:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Triple(**fields)
