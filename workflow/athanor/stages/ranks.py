"""Rank what models answered to training questions: the answer on record, then one of theirs that is worth more than another."""

import json
from collections.abc import Mapping
from typing import Any

from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.documents import JsonlWriter
from athanor.rewards.polar.ranks import Ranked, Valued, is_aside, rank_answers
from athanor.rewards.scores import Scores
from athanor.stages.rollouts import SCORED_FILE

LEARNT_FILE, ASIDE_FILE = "train.jsonl.gz", "aside.jsonl.gz"


def run(stage: StageRun) -> Outcome:
    """`train.jsonl.gz` and `aside.jsonl.gz`, a rank a line, of different questions: the second is for measuring.

    Nothing held out is in either: rollouts ask training questions alone.
    """
    settings, seed, weights = stage.recipe.reward, stage.recipe.seed, stage.recipe.offline.weights
    questions: dict[str, list[dict[str, Any]]] = {}
    for rolled in stage.inputs.values():
        with (rolled.folder / SCORED_FILE).open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                questions.setdefault(question_of(row), []).append(row)
    made: dict[bool, list[Ranked]] = {False: [], True: []}
    level = 0
    for question, rows in questions.items():
        valued = [Valued(row["text"], Scores(**row["scores"]).total(weights)) for row in rows]
        asked, record = rows[0]["question"], rows[0]["expected"]
        ranks = rank_answers(question, asked, record, valued, settings.ranks_a_question, seed)
        level += not ranks
        made[is_aside(question, settings.ranks_aside, seed)] += ranks
    if not all(made.values()):
        raise StageError(
            f"{len(made[False])} ranks to learn from and {len(made[True])} aside, of {len(questions)} questions ({level} without "
            f"answers of different worth); raise offline.prompts, offline.samples or reward.ranks_aside={settings.ranks_aside}"
        )
    for name, aside in ((LEARNT_FILE, False), (ASIDE_FILE, True)):
        with JsonlWriter(stage.folder / name) as writer:
            for rank in made[aside]:
                writer.write(rank)
    counters = {"questions": len(questions), "level": level, "ranks": len(made[False]), "aside": len(made[True])}
    policies = ", ".join(rolled.instance for rolled in stage.inputs.values())
    stage.spool.dataset("ranks", stage.fingerprint, "rollouts", "reward", {"answers_of": policies, **counters})
    return Outcome(files=(LEARNT_FILE, ASIDE_FILE), counters=counters)


def question_of(row: Mapping[str, Any]) -> str:
    """A scored answer's question, among those of all tasks."""
    return f"{row['task']}/{row['prompt']}"
