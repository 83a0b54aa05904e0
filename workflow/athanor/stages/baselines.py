"""Fit unigram and bigram models on the training tokens of each domain, and measure them where the model is validated."""

import numpy as np

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Outcome, StageRun, Stopped
from athanor.data.token_store import read_tokens
from athanor.data.windows import held_out_sequences, held_out_shards, training_shards
from athanor.evaluation.ngram import BASELINES_FILE, NgramCounts, NgramModel


def run(stage: StageRun) -> Outcome:
    """`baselines.json`: domain → nats a token of both models, and the tokens predicted."""
    recipe = stage.recipe
    folders = {name: artifact.folder for name, artifact in stage.inputs.items()}
    shards, held_out = training_shards(folders), held_out_shards(folders)
    total, done = sum(map(len, shards.values())), 0
    losses: dict[str, dict[str, float]] = {}
    for domain in sorted({recipe.data.sources[name].domain for name in shards}):
        members = [name for name in sorted(shards) if recipe.data.sources[name].domain == domain]
        counts = NgramCounts(recipe.model.vocab_size)
        for folder in (folder for name in members for folder in shards[name]):
            if stage.stop_requested:
                raise Stopped(f"baselines after {done} of {total} shards")
            counts.add(read_tokens(folder))
            done += 1
            stage.progress(done, total, "shards")
        windows = [
            held_out_sequences(held_out[name], recipe.pretrain.sequence_length, recipe.pretrain.validation_tokens).sequences
            for name in members
        ]
        losses[domain] = vars(NgramModel(counts).loss(np.concatenate(windows)))
    write_json(stage.folder / BASELINES_FILE, losses)
    metrics = {f"{domain}/{name}": loss[name] for domain, loss in losses.items() for name in ("unigram", "bigram")}
    stage.spool.metrics(0, metrics)
    return Outcome(
        files=(BASELINES_FILE,),
        counters={f"{domain}.tokens": int(loss["tokens"]) for domain, loss in losses.items()},
        metrics=metrics,
    )
