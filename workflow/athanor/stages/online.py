"""Online RL: answers are drawn from the weights as they are, rewarded, and learnt from, round by round."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.chat import ChatEncoder
from athanor.data.documents import read_rows
from athanor.models.folder_files import MODEL_FOLDER, POINTS_FOLDER
from athanor.recipe.graph import CHECKPOINT
from athanor.recipe.schema.choices import Backend
from athanor.rl.online.browser import THROUGH_TRAINING_FILE, write_through_training
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE, Pooled
from athanor.rl.online.rounds import LEDGER, Made, path_of, read_ledger, read_round, settle_accounts
from athanor.stages.online_external import learn_elsewhere
from athanor.stages.pretrain import failures_so_far
from athanor.stages.round_answers import Asked
from athanor.stages.rounds import OnlineRounds
from athanor.training.checkpoints import FINAL
from athanor.training.samples import SampleReader

ROUTERS = "mlp.router"  # as Megatron names them
WEIGHTS = "weights"  # below the stage's folder, while it trains: what the rounds are answered with


def run(stage: StageRun) -> Outcome:
    """Train from the exported weights of the artifact `start`; instance `model`, or a control (`random`, `shuffled`).

    Beside what every training leaves: `rounds/`, `ledger.jsonl`, `through_training.html`, answers to the same prompts, and
    `points/`, the weights that the last rounds began with, where their mean is wanted. Where another trainer makes the model,
    `stages/online_external.py` says what it leaves.
    """
    if stage.instance == "model" and stage.recipe.online.external.command:
        return learn_elsewhere(stage)
    settings, start = stage.recipe.online, stage.input_named("start").folder / MODEL_FOLDER
    pool = stage.input_named("pool").folder
    prompts = {prompt.id: prompt for prompt in map(Pooled.of, read_rows(pool / POOL_FILE))}
    watched = [Pooled.of(row) for row in read_rows(pool / WATCHED_FILE)]
    by = _by_megatron if settings.backend is Backend.MEGATRON else _by_deepspeed
    outcome = by(stage, start, ChatEncoder(start), prompts, watched)
    return _outcome(stage, outcome, watched) if stage.rank == 0 else outcome


def _by_deepspeed(
    stage: StageRun, start: Path, encoder: ChatEncoder, prompts: Mapping[str, Pooled], watched: Sequence[Pooled]
) -> Outcome:
    """The exported folder itself is trained."""
    from athanor.training.deepspeed.loop import train
    from athanor.training.deepspeed.model_folder import write_model
    from athanor.training.deepspeed.online import PolicyLoss, online_learning, reference_of

    settings, loss = stage.recipe.online, PolicyLoss(stage.recipe.online.objective)
    reference = None
    if settings.objective.reference_kl:
        reference = reference_of(start, encoder.padding, settings.parallel.micro_batch_size)
    asked = Asked(start, encoder, prompts, watched, partial(write_model, start))
    with closing(OnlineRounds(stage, settings, asked, loss.taken, reference)) as rounds:
        task = online_learning(settings, start, encoder.padding, rounds, rounds, loss)
        return train(stage, replace(task, failures=lambda: failures_so_far(stage)))


def _by_megatron(
    stage: StageRun, start: Path, encoder: ChatEncoder, prompts: Mapping[str, Pooled], watched: Sequence[Pooled]
) -> Outcome:
    """The checkpoint that the folder was exported from is trained."""
    from athanor.training.loop import train
    from athanor.training.online import AnswerBatches, AnswerObjective, OnRounds, Says, capacity_of
    from athanor.training.optimizer import Learner
    from athanor.training.round_weights import RoundWeights, hand_on
    from athanor.training.task import Task

    settings, model, trained = stage.recipe.online, stage.recipe.model, stage
    objective = AnswerObjective(settings.objective)
    if settings.freeze_router and model.num_experts:
        settings = replace(settings, freeze=[*settings.freeze, ROUTERS])
        unbalanced = replace(model, aux_loss_coefficient=0.0, z_loss_coefficient=0.0)  # else all before the routers would balance
        trained = replace(stage, recipe=replace(stage.recipe, model=unbalanced))
    asked = Asked(start, encoder, prompts, watched, hand_on)
    with closing(OnlineRounds(stage, settings, asked, objective.taken, None)) as rounds:

        def on_rounds(learner: Learner) -> OnRounds:
            return OnRounds(
                AnswerBatches(rounds, settings, learner.layout),
                Says(learner, capacity_of(settings)),
                RoundWeights(learner, model, start, stage.folder / WEIGHTS),
            )

        task = Task(
            settings=settings,
            start=stage.input_named(CHECKPOINT).folder / FINAL,
            end_tokens=settings.token_budget,
            samples=_no_samples,
            held_out=dict,
            objective=objective,
            afresh=True,
            failures=lambda: failures_so_far(stage),
            rounds=rounds,
            on_rounds=on_rounds,
            drop_norms=settings.drop_norms,
        )
        return train(trained, task)


def _no_samples() -> SampleReader:
    raise AssertionError("answers are read of their rounds")


def _points(stage: StageRun) -> list[Path]:
    """The files of the weights that the last rounds began with. Raises StageError where some are lost."""
    found = sorted((stage.folder / POINTS_FOLDER).glob("[0-9]*"))
    wanted = max(0, stage.recipe.online.average - 1) if stage.instance == "model" else 0
    if len(found) != wanted:
        told = f"{stage.folder / POINTS_FOLDER} has {len(found)} of {wanted} points"
        raise StageError(f"{told}; delete {stage.folder} and train anew")
    return [path for point in found for path in sorted((point / MODEL_FOLDER).iterdir())]


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
