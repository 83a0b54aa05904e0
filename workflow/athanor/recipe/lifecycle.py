"""The lifecycle as a graph of artifacts: which stages a recipe needs, what each depends on, and who it is.

Everything here is known from the recipe alone, so Snakemake has every path while it parses. The rules in `rules/` take
their inputs from this graph; nothing else says what depends on what.
"""

from collections.abc import Mapping
from pathlib import Path

from athanor.recipe.exports import export_of
from athanor.recipe.external import external_pretrain_section
from athanor.recipe.graph import AVERAGE, GIVEN, HELD_OUT, SHUFFLED, UNTRAINED, Artifact, Graph
from athanor.recipe.post_training import post_train
from athanor.recipe.reward import write_triples
from athanor.recipe.reward_training import train_reward_model
from athanor.recipe.schema.choices import TokenOrder
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.sections import (
    evaluate_section,
    fetch_section,
    pretrain_section,
    report_section,
    start_section,
    tokenizer_section,
)
from athanor.recipe.units import Unit, format_quantity


class Lifecycle(Graph):
    """All artifacts of a recipe."""

    def __init__(self, recipe: Recipe, project: Path) -> None:
        super().__init__(recipe, project)
        _lay_out(recipe, self)


def _lay_out(r: Recipe, graph: Graph) -> None:
    """The whole life, top to bottom."""
    used = {name: r.data.sources[name] for name in r.data.sources if name in r.pretrain.mixture}
    documents = {name: graph.add("fetch", name, fetch_section(r, source), {}) for name, source in used.items()}
    tokenizer = graph.add("tokenizer", "bpe", tokenizer_section(r), {} if r.pretrain.init_from else documents)

    tokens: dict[str, Artifact] = {}
    for name, source in used.items():
        for part in [*map(str, range(source.shards)), HELD_OUT]:
            upstreams = {"documents": documents[name], "tokenizer": tokenizer}
            tokens[f"{name}-{part}"] = graph.add("tokenize", f"{name}-{part}", {"part": part}, upstreams)

    start = graph.add("initialize", "model", start_section(r), {})
    milestones: dict[str, Artifact] = {}
    last, before = start, UNTRAINED
    for end in [*r.pretrain.milestone_tokens, r.pretrain.token_budget]:
        label = format_quantity(end, Unit.TOKENS)
        section, upstreams = pretrain_section(r, end, TokenOrder.NATURAL), {"start": last, **tokens}
        if r.pretrain.external.command:
            section = external_pretrain_section(r, end, graph.project)
            upstreams[GIVEN] = export_of(graph, before, last, tokenizer)
        milestones[label] = last = graph.add("pretrain", label, section, upstreams)
        before = label
    curves = dict(milestones)
    if r.pretrain.shuffled_control:
        section = pretrain_section(r, r.pretrain.token_budget, TokenOrder.SHUFFLED)
        curves[SHUFFLED] = graph.add("pretrain", SHUFFLED, section, {"start": start, **tokens})
    windows = {f"pretrain.{k}": getattr(r.pretrain, k) for k in ("sequence_length", "validation_tokens")}
    domains = {f"domains.{name}": source.domain for name, source in used.items()}
    rows = {"model.vocab_size": r.model.vocab_size}  # every row of the embedding has a probability
    baselines = graph.add("baselines", "ngram", {**windows, **domains, **rows}, tokens)

    scores: dict[str, Artifact] = {}
    for label, checkpoint in ((UNTRAINED, start), (list(milestones)[-1], last)):
        model = export_of(graph, label, checkpoint, tokenizer)
        scores[label] = graph.add("evaluate", label, evaluate_section(r, domains), {"model": model, **documents})
    if r.pretrain.average:
        averaged = {
            label: export_of(graph, label, end, tokenizer) for label, end in list(milestones.items())[-r.pretrain.average :]
        }
        mean = graph.add(AVERAGE, "pretrain", {}, averaged)
        scores[AVERAGE] = graph.add("evaluate", AVERAGE, evaluate_section(r, domains), {"model": mean, **documents})

    def judge(rollouts: Mapping[str, Artifact]) -> Artifact | None:
        return train_reward_model(r, graph, write_triples(r, graph, tokenizer, milestones, documents), rollouts)

    if r.sft.tasks:
        tuned = post_train(r, graph, tokenizer, last, model, judge)
    else:  # milestones alone speak
        tuned, _ = {}, judge({})
    judged = {f"{a.stage}-{a.instance}": a for stage in ("reward_pretrain", "reward_tune", "score") for a in graph.of(stage)}
    figures = {**curves, "baselines": baselines, **{f"scores-{label}": s for label, s in scores.items()}, **tuned, **judged}
    graph.add("report", "campaign", report_section(r), figures)
