"""Score a model's answers by the reward model, each beside the answer on record, and see which it would choose."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.models.folder_files import MODEL_FOLDER
from athanor.rewards.polar.ranks import is_aside
from athanor.rewards.polar.scoring import Scorer, Scoring, read_scores, score_into_shards
from athanor.rewards.polar.template import Item
from athanor.rewards.scores import REWARDS_FILE, beside_record
from athanor.rl.browser import SAMPLES_FILE, write_samples
from athanor.stages.ranks import question_of
from athanor.stages.rollouts import SCORED_FILE

RECORD = "record"  # the answer on record as a candidate beside itself: what the others are measured from


def run(stage: StageRun) -> Outcome:
    """`rewards.jsonl`, a line an answer (raw score, and from 0 to 1), and `samples.html`; instance TASK-MODEL."""
    model = stage.input_named("model")
    with (stage.input_named("rollouts").folder / SCORED_FILE).open(encoding="utf-8") as lines:
        answers = [json.loads(line) for line in lines]
    items = {f"{row['prompt']}#{RECORD}": Item(row["question"], row["expected"], row["expected"]) for row in answers}
    items |= {f"{row['prompt']}#{row['number']}": Item(row["question"], row["expected"], row["text"]) for row in answers}

    def progress(done: int, total: int) -> None:
        stage.progress(done, total, "answers")
        if stage.stop_requested and done < total:
            raise Stopped(f"scores of {stage.instance} after {done} of {total} answers; finished shards are kept")

    scoring = Scoring(model.fingerprint)
    shards = score_into_shards(
        list(items.items()), scoring, lambda: Scorer(model.folder / MODEL_FOLDER), stage.folder / "shards", progress
    )
    raw = read_scores(shards)
    for row in answers:
        row["raw"] = raw[f"{row['prompt']}#{row['number']}"]
        row["scores"]["reward"] = beside_record(row["raw"], raw[f"{row['prompt']}#{RECORD}"])
    rows = [{"prompt": a["prompt"], "number": a["number"], "raw": a["raw"], "reward": a["scores"]["reward"]} for a in answers]
    (stage.folder / REWARDS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    write_samples(stage.folder / SAMPLES_FILE, f"{stage.recipe.name}: {stage.instance}, by the reward model", answers)
    stage.spool.artifact(stage.folder / SAMPLES_FILE, SAMPLES_FILE)
    chosen = _chosen(stage, answers)
    stage.spool.metrics(int(model.counters.get("step", 0)), chosen)
    return Outcome(files=(REWARDS_FILE, SAMPLES_FILE), counters={"answers": len(answers)}, metrics=chosen)


def _chosen(stage: StageRun, answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How often the answer of the highest reward is right, beside any of them and one that is right wherever there is one.

    Of the questions whose ranks were put aside, which the reward model has not learnt from; nothing where there are none.
    """
    share, seed = stage.recipe.reward.ranks_aside, stage.recipe.seed
    by_question: dict[str, list[Mapping[str, Any]]] = {}
    for row in answers:
        if is_aside(question_of(row), share, seed):
            by_question.setdefault(row["prompt"], []).append(row)
    if not by_question:
        return {}
    best, drawn, ever = [], [], []
    for rows in by_question.values():
        right = np.array([float(row["right"]) for row in rows])
        rewards = np.array([row["scores"]["reward"] for row in rows])
        highest = rewards == rewards.max()
        best.append(right[highest].mean())
        drawn.append(right.mean())
        ever.append(right.max())
    found = {"chosen": best, "any": drawn, "possible": ever}
    return {f"right/{name}": float(np.mean(rates)) for name, rates in found.items()}
