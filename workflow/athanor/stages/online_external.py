"""Online RL that another trainer does."""

from athanor.artifacts.run import Outcome, StageRun
from athanor.external.contract import METRICS_FILE, Asked, Budget, Given
from athanor.models.folder_files import MODEL_FOLDER
from athanor.rl.online.prompts import POOL_FILE, WATCHED_FILE
from athanor.stages.external import Deal, hand_over, made


def learn_elsewhere(stage: StageRun) -> Outcome:
    """Leaves `model/` and `metrics.jsonl`; raises as `hand_over`."""
    deal = _deal(stage)
    hand_over(stage, deal)
    if stage.rank != 0:
        return Outcome(())
    found, pool = made(stage, deal), stage.input_named("pool")
    last, answers = found.last, found.last.tokens // stage.recipe.online.sequence_length
    described = {"tokens": last.tokens, "pool": pool.fingerprint, "trainer": deal.external.command}
    described["trainer_version"] = found.trainer["version"]
    stage.spool.model(f"{stage.stage}-{stage.instance}", last.step, MODEL_FOLDER, described, source="huggingface")
    counters: dict[str, int | str] = {"step": last.step, "tokens": last.tokens, "answers": answers}
    return Outcome((MODEL_FOLDER, METRICS_FILE), counters, found.values(), found.trainer)


def _deal(stage: StageRun) -> Deal:
    o, pool = stage.recipe.online, stage.input_named("pool")
    files = {"pool": POOL_FILE, "watched": WATCHED_FILE}
    return Deal(
        section="online",
        external=o.external,
        start=stage.input_named("start"),
        inputs={name: Given(str((pool.folder / file).absolute()), pool.fingerprint) for name, file in files.items()},
        budget=Budget(o.token_budget, o.token_budget // o.sequence_length),
        asked=Asked(dict(o.mixture), o.prompts, o.samples, o.max_new_tokens, o.sequence_length),
    )
