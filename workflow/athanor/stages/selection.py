"""Choose what a task's own answers teach: of every question that is worth it the best one, and for the control any one."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Input, Outcome, StageError, StageRun
from athanor.data.conversations import TRAINING_FILE, Conversation, question_of, read_conversations, training_file
from athanor.data.documents import JsonlWriter
from athanor.recipe.graph import FINE_TUNED
from athanor.recipe.schema.choices import Responses
from athanor.recipe.schema.post_training import ScoreWeights
from athanor.rewards.scores import REWARDS_FILE, Scores, read_rewards
from athanor.rl.selection import SELECTION_FILE, Candidate, answerable, best, drawn, keep
from athanor.stages.rollouts import SCORED_FILE

THOUGHT = re.compile(r"<think>\n?(.*?)\n?</think>\s*", re.DOTALL)


def run(stage: StageRun) -> Outcome:
    """`best.jsonl.gz` and `drawn.jsonl.gz`, conversations of the same questions; `selection.json`: the pass rates."""
    settings, seed = stage.recipe.offline, stage.recipe.seed
    policies = [made for made in stage.inputs.values() if made.manifest.result.stage == "rollouts"]
    learner = stage.input_named(f"rollouts-{FINE_TUNED}").instance
    scored = {learner: read_rewards(stage.input_named("scores").folder / REWARDS_FILE)} if settings.weights.reward else {}
    answers_of = {policy.instance: candidates_of(policy, settings.weights, scored.get(policy.instance)) for policy in policies}
    mine = answers_of[learner]
    rates = {}
    for prompt in mine:
        right = [candidate.scores.accuracy for answers in answers_of.values() for candidate in answers[prompt]]
        rates[prompt] = sum(right) / len(right)
    kept = keep(rates, answerable(mine), settings.filter)
    if not kept.prompts:
        raise StageError(
            f"{stage.instance}: none of {len(rates)} questions is left to learn from ({kept.unanswered} without a right answer, "
            f"{kept.easy} too easy, {kept.hard} too hard); raise offline.samples or offline.filter.floor, fine-tune longer, or "
            f"leave {stage.instance} out of offline.mixture"
        )
    chosen = {
        Responses.BEST: {prompt: best(mine[prompt]) for prompt in kept.prompts},
        Responses.DRAWN: {prompt: drawn(mine[prompt], seed) for prompt in kept.prompts},
    }
    asked = list(read_conversations(stage.input_named("conversations").folder / TRAINING_FILE))
    for kind, answers in chosen.items():
        with JsonlWriter(stage.folder / training_file(kind)) as writer:
            for conversation in _answered(asked, answers):
                writer.write(conversation.row())
    write_json(stage.folder / SELECTION_FILE, {"pass_rates": rates, **kept.counters()})
    tokens = {f"{kind}_tokens": sum(c.tokens for c in answers.values()) for kind, answers in chosen.items()}
    counters = {"questions": len(rates), **kept.counters(), **tokens}
    learnt_from = {"policies": ", ".join(policy.instance for policy in policies), **counters}
    stage.spool.dataset(stage.instance, stage.fingerprint, "rollouts", "offline", learnt_from)
    return Outcome(
        files=(*map(training_file, chosen), SELECTION_FILE), counters=counters, metrics={"kept": len(kept.prompts) / len(rates)}
    )


def candidates_of(
    policy: Input, weights: ScoreWeights, rewards: Mapping[tuple[str, int], float] | None = None
) -> dict[str, list[Candidate]]:
    """Answers by question, in the order they were asked; `rewards` are a reward model's scores of them."""
    found: dict[str, list[Candidate]] = {}
    with (policy.folder / SCORED_FILE).open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            scores = Scores(**row["scores"])
            if rewards is not None:
                scores = replace(scores, reward=rewards[row["prompt"], row["number"]])
            facts = (row["text"], scores, scores.total(weights), row["log_prob"], row["tokens"])
            found.setdefault(row["prompt"], []).append(Candidate(row["prompt"], row["number"], *facts))
    return found


def _answered(asked: list[Conversation], answers: dict[str, Candidate]) -> Iterator[Conversation]:
    for conversation in asked:
        if (answer := answers.get(conversation.id)) is not None:
            messages, _ = question_of(conversation)
            yield replace(conversation, messages=[*messages, message_of(answer.text)])


def message_of(text: str) -> dict[str, Any]:
    """What the model said, its thoughts apart, as the chat template writes them."""
    thought = THOUGHT.match(text)
    said = {"role": "assistant", "content": text[thought.end() :] if thought else text}
    return {**said, "reasoning_content": thought[1]} if thought else said
