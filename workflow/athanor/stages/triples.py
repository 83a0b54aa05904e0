"""Triples out of the roster's trajectories, for training and for the test, and how far the test's go without any training."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageError, StageRun
from athanor.data.documents import JsonlWriter
from athanor.models.folder_files import MODEL_FOLDER
from athanor.recipe.reward import roster
from athanor.rewards.polar.accuracy import Accuracy, accuracy, wins
from athanor.rewards.polar.baselines import Embeddings, bigrams, length
from athanor.rewards.polar.triples import Made, Triple, make_triples
from athanor.rl.trajectories import read_texts
from athanor.stages.roster import limits, plan, tokenizer_of
from athanor.stages.trajectories import SHARDS

TRAIN_FILE, TEST_FILE, BASELINES_FILE = "train.jsonl.gz", "test.jsonl.gz", "baselines.json"


def run(stage: StageRun) -> Outcome:
    """`train.jsonl.gz` and `test.jsonl.gz`, a triple of token ids a line; `baselines.json`: accuracies on the test."""
    base = stage.input_named("model").folder / MODEL_FOLDER
    tokenizer = tokenizer_of(base)
    said = read_texts(_shards(stage))
    planned = plan(stage, tokenizer)
    train, test = (make_triples(continued, said, limits(stage)) for continued in (planned.train, planned.test))
    for name, side, made in ((TRAIN_FILE, "train", train), (TEST_FILE, "test", test)):
        if not made.triples:
            dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(made.dropped.items()))
            raise StageError(
                f"none of {sum(made.dropped.values())} triples for {side} is left ({dropped}); lower reward.shortest_text="
                f"{stage.recipe.reward.shortest_text}, raise reward.shared or the temperatures"
            )
        with JsonlWriter(stage.folder / name) as writer:
            for triple in made.triples:
                writer.write(triple)
    rates = _baselines(test.triples, Embeddings(base, int(tokenizer.pad_token_id)), stage.recipe.seed)
    write_json(stage.folder / BASELINES_FILE, {name: asdict(rate) for name, rate in rates.items()})
    metrics = {f"untrained_accuracy/{name}": rate.rate for name, rate in rates.items()}
    stage.spool.metrics(0, metrics)
    counters = {**_counted("train", train), **_counted("test", test)}
    return Outcome(files=(TRAIN_FILE, TEST_FILE, BASELINES_FILE), counters=counters, metrics=metrics)


def _shards(stage: StageRun) -> dict[str, list[Path]]:
    """Shards by policy, of every model."""
    found: dict[str, list[Path]] = {}
    for label in roster(stage.recipe):
        folder = stage.input_named(f"trajectories-{label}").folder / SHARDS
        found |= {policy.name: sorted(policy.glob("shard-*.jsonl")) for policy in sorted(folder.iterdir())}
    return found


def _baselines(test: Sequence[Triple], embeddings: Embeddings, seed: int) -> dict[str, Accuracy]:
    prefixes, references = [t.prefix for t in test], [t.reference for t in test]
    candidates, others = [t.candidate for t in test], [t.other for t in test]
    groups, rates = [t.prefix_id for t in test], {}
    for name, score in (("bigrams", bigrams), ("embeddings", embeddings), ("length", length)):
        won = wins(score(prefixes, references, candidates), score(prefixes, references, others))
        rates[name] = accuracy(won, groups, seed)
    return rates


def _counted(side: str, made: Made) -> dict[str, int | str]:
    return {side: len(made.triples), **{f"{side}_{reason}": count for reason, count in sorted(made.dropped.items())}}
