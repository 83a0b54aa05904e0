"""Stage pretrain: one milestone of continued pretraining, or the shuffled-token control."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from athanor.artifacts.manifest import MANIFEST, Manifest
from athanor.artifacts.run import Outcome, StageRun
from athanor.cluster.failures import machine_failures
from athanor.data.mixture import Mixture
from athanor.data.windows import held_out_sequences, held_out_shards, training_shards
from athanor.recipe.graph import GIVEN, SHUFFLED, TRAINING
from athanor.recipe.schema.choices import TokenOrder
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.units import Unit, parse_quantity
from athanor.training.checkpoints import FINAL
from athanor.training.failures import Failures
from athanor.training.held_out import HeldOut
from athanor.training.loop import train
from athanor.training.task import Task


def run(stage: StageRun) -> Outcome:
    """Train from the artifact `start` to this milestone's end."""
    recipe, shuffled = stage.recipe, stage.instance == SHUFFLED
    p = recipe.pretrain
    tokens = {name: upstream for name, upstream in stage.inputs.items() if name not in ("start", GIVEN)}
    folders = {name: upstream.folder for name, upstream in tokens.items()}
    if p.external.command and not shuffled:
        from athanor.stages.pretrain_external import pretrain_elsewhere  # with transformers, which nothing else here needs

        return pretrain_elsewhere(stage, tokens, lambda: _held_out(recipe, held_out_shards(folders)))
    order = TokenOrder.SHUFFLED if shuffled else TokenOrder.NATURAL
    task = Task(
        settings=p,
        start=stage.input_named("start").folder / FINAL,
        end_tokens=p.token_budget if shuffled else parse_quantity(stage.instance, Unit.TOKENS),
        samples=lambda: Mixture(training_shards(folders), p.mixture, p.sequence_length, recipe.seed, order),
        held_out=lambda: _held_out(recipe, held_out_shards(folders)),
        domains=tuple({recipe.data.sources[name].domain: None for name in p.mixture}),
        domain=lambda samples, index: recipe.data.sources[samples.where(index).source].domain,
        failures=lambda: failures_so_far(stage),
    )
    outcome = train(stage, task)
    described = {"tokens": outcome.counters["tokens"], "token_order": order.value}
    stage.spool.model(f"{stage.stage}-{stage.instance}", int(outcome.counters["step"]), FINAL, described, "megatron")
    return outcome


def failures_so_far(stage: StageRun) -> Failures:
    """Of the machines that this artifact and those before it were trained on, by their journals."""
    return Failures(*machine_failures(_trained_in(stage)))


def _trained_in(stage: StageRun) -> Iterator[Path]:
    """The folder of this training and of every one before it whose manifest is still there."""
    yield stage.folder
    start = stage.inputs.get("start")
    folder, manifest = (start.folder, start.manifest) if start else (None, None)
    while folder and manifest and manifest.result.stage in TRAINING:
        yield folder
        before = manifest.result.upstreams["start"]
        folder = folder.parents[1] / before.stage / before.fingerprint
        manifest = Manifest.read(folder / MANIFEST) if (folder / MANIFEST).is_file() else None


def _held_out(recipe: Recipe, shards: Mapping[str, Path]) -> dict[str, HeldOut]:
    """Validation windows by domain; sources of one domain are put end to end."""
    p = recipe.pretrain
    domains: dict[str, HeldOut] = {}
    for source in sorted(p.mixture):
        found = held_out_sequences(shards[source], p.sequence_length, p.validation_tokens)
        domain = recipe.data.sources[source].domain
        before = domains.get(domain, HeldOut([], 0))
        domains[domain] = HeldOut([*before.samples, *found.sequences], before.bytes + found.bytes)
    return domains
