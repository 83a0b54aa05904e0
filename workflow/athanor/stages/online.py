"""Online RL: answers are drawn from the weights as they are, rewarded, and learnt from, round by round."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.documents import read_rows
from athanor.models.folder_files import MODEL_FOLDER, POINTS_FOLDER
from athanor.rl.online.browser import THROUGH_TRAINING_FILE, write_through_training
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE, Pooled
from athanor.rl.online.rounds import LEDGER, Made, path_of, read_ledger, read_round, settle_accounts
from athanor.stages.external import hand_over
from athanor.stages.pretrain import failures_so_far
from athanor.stages.round_answers import Asked
from athanor.stages.rounds import OnlineRounds
from athanor.training.deepspeed.loop import train
from athanor.training.deepspeed.model_folder import write_model
from athanor.training.deepspeed.online import PolicyLoss, online_learning


def run(stage: StageRun) -> Outcome:
    """Train from the exported weights of the artifact `start`; instance `model`, or a control (`random`, `shuffled`).

    Beside what every training leaves: `rounds/`, `ledger.jsonl`, `through_training.html`, answers to the same prompts, and
    `points/`, the weights that the last rounds began with, where their mean is wanted. Where another trainer makes the model,
    `stages/external.py` says what it leaves.
    """
    if stage.instance == "model" and stage.recipe.online.external.command:
        return hand_over(stage)
    settings, start = stage.recipe.online, stage.input_named("start").folder / MODEL_FOLDER
    pool = stage.input_named("pool").folder
    encoder, loss = ChatEncoder(start), PolicyLoss(settings.objective)
    prompts = {prompt.id: prompt for prompt in map(Pooled.of, read_rows(pool / POOL_FILE))}
    watched = [Pooled.of(row) for row in read_rows(pool / WATCHED_FILE)]
    asked = Asked(start, encoder, prompts, watched, partial(_write, start))
    rounds = OnlineRounds(stage, settings, asked, loss)
    try:
        task = online_learning(settings, start, encoder.padding, rounds, rounds, loss)
        outcome = train(stage, replace(task, failures=lambda: failures_so_far(stage)))
    finally:
        rounds.close()
    return _outcome(stage, outcome, watched) if stage.rank == 0 else outcome


def _points(stage: StageRun) -> list[Path]:
    """The files of the weights that the last rounds began with. Raises StageError where some are lost."""
    found = sorted((stage.folder / POINTS_FOLDER).glob("[0-9]*"))
    wanted = max(0, stage.recipe.online.average - 1) if stage.instance == "model" else 0
    if len(found) != wanted:
        told = f"{stage.folder / POINTS_FOLDER} has {len(found)} of {wanted} points"
        raise StageError(f"{told}; delete {stage.folder} and train anew")
    return [path for point in found for path in sorted((point / MODEL_FOLDER).iterdir())]


def _write(start: Path, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    write_model(start, weights, folder)


def _outcome(stage: StageRun, outcome: Outcome, watched: Sequence[Pooled]) -> Outcome:
    """With every answer accounted for."""
    made: list[Made] = []
    while (found := read_round(stage.folder, len(made))) is not None:
        made.append(found)
    counters = settle_accounts(read_ledger(stage.folder / LEDGER), made)
    looks = {f"round {one.number}": {row["prompt"]: row for row in one.watched} for one in made if one.watched}
    title = f"{stage.recipe.name}: held-out prompts through {stage.stage}/{stage.instance}"
    write_through_training(stage.folder / THROUGH_TRAINING_FILE, title, watched, looks)
    stage.spool.artifact(stage.folder / THROUGH_TRAINING_FILE, THROUGH_TRAINING_FILE)
    described = {"tokens": outcome.counters["tokens"], "pool": stage.input_named("pool").fingerprint, **counters}
    step = int(outcome.counters["step"])
    stage.spool.model(f"{stage.stage}-{stage.instance}", step, MODEL_FOLDER, described, source="huggingface")
    points = _points(stage)
    files = [str(path.relative_to(stage.folder)) for path in (*(path_of(stage.folder, one.number) for one in made), *points)]
    last = {name: value for name, value in made[-1].metrics.items() if name in ("pass_rate", "entropy", "answer_tokens")}
    return Outcome(
        (*outcome.files, LEDGER, THROUGH_TRAINING_FILE, *files), {**outcome.counters, **counters}, {**outcome.metrics, **last}
    )
