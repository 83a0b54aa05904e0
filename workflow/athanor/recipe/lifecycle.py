"""The lifecycle as a graph of artifacts: which stages a recipe needs, what each depends on, and who it is.

Everything here is known from the recipe alone, so Snakemake has every path while it parses. The rules in `rules/` take
their inputs from this graph; nothing else says what depends on what.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from athanor.recipe.environments import pins
from athanor.recipe.fingerprint import fingerprint, flatten, plain
from athanor.recipe.schedules import decay_of
from athanor.recipe.schema import (
    Balance,
    Model,
    Precision,
    Recipe,
    Responses,
    Router,
    Source,
    SourceKind,
    SpikeAction,
    TokenOrder,
    Training,
)  # fmt: skip
from athanor.recipe.units import Unit, format_quantity


@dataclass(frozen=True)
class Stage:
    """A kind of artifact: raise `version` when its code would now give another result."""

    name: str
    version: int
    packages: tuple[str, ...]  # those whose version decides the result


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("fetch", 1, ()),
        Stage("tokenizer", 1, ("tokenizers",)),
        Stage("tokenize", 1, ("tokenizers",)),
        Stage("initialize", 1, ("torch", "megatron-core")),
        Stage("pretrain", 1, ("torch", "megatron-core", "transformer-engine")),
        Stage("baselines", 1, ("numpy",)),
        Stage("conversations", 1, ()),
        Stage("pack", 1, ("tokenizers", "transformers")),
        Stage("sft", 1, ("torch", "megatron-core", "transformer-engine")),
        Stage("export", 1, ("torch", "safetensors", "transformers")),
        Stage("answers", 2, ("torch", "transformers")),
        Stage("evaluate", 1, ("torch", "transformers", "lm-eval")),
        Stage("report", 4, ("matplotlib",)),
    )
}

TRAINING = ("pretrain", "sft")  # stages of many ranks, which mark every step
HELD_OUT = "held_out"
UNTRAINED = "untrained"
SHUFFLED = "shuffled"
FINE_TUNED = "sft"


@dataclass(frozen=True, eq=False)
class Artifact:
    """One node of the graph. `section` holds the recipe keys (dotted) that decide its result."""

    stage: str
    instance: str
    section: Mapping[str, Any]
    upstreams: Mapping[str, "Artifact"]
    packages: Mapping[str, str]
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint(self.identity()))

    @property
    def name(self) -> str:
        """`pretrain/400K`: how people call it."""
        return f"{self.stage}/{self.instance}"

    @property
    def path(self) -> str:
        """`pretrain/0123456789abcdef`: its folder below the store."""
        return f"{self.stage}/{self.fingerprint}"

    def identity(self) -> dict[str, Any]:
        """What the fingerprint is taken of."""
        return {
            "stage": self.stage,
            "version": STAGES[self.stage].version,
            "section": {k: plain(v, k) for k, v in self.section.items()},
            "packages": dict(self.packages),
            "upstreams": {name: upstream.fingerprint for name, upstream in self.upstreams.items()},
        }


class Lifecycle:
    """All artifacts of a recipe, in the order they can be made."""

    def __init__(self, recipe: Recipe, project: Path) -> None:
        self.recipe, self._project = recipe, project
        self._artifacts: dict[str, Artifact] = {}
        _lay_out(recipe, self)

    def add(self, stage: str, instance: str, section: Mapping[str, Any], upstreams: Mapping[str, Artifact]) -> Artifact:
        """Put one more artifact in the graph."""
        packages = pins(self._project, self.recipe.environment, STAGES[stage].packages)
        artifact = Artifact(stage, instance, section, upstreams, packages)
        self._artifacts[artifact.name] = artifact
        return artifact

    def __iter__(self) -> Iterator[Artifact]:
        return iter(self._artifacts.values())

    def __getitem__(self, name: str) -> Artifact:
        return self._artifacts[name]

    def __contains__(self, name: str) -> bool:
        return name in self._artifacts

    def of(self, stage: str) -> list[Artifact]:
        """The artifacts of one stage."""
        return [artifact for artifact in self if artifact.stage == stage]

    def by_path(self, path: str) -> Artifact:
        """The artifact stored at `STAGE/FINGERPRINT`; KeyError when the recipe has none there."""
        return next((a for a in self if a.path == path), None) or _raise(KeyError(path))


def _raise(error: Exception) -> Any:
    raise error


def _lay_out(r: Recipe, graph: Lifecycle) -> None:
    """The whole life, top to bottom."""
    used = {name: r.data.sources[name] for name in r.data.sources if name in r.pretrain.mixture}
    documents = {name: graph.add("fetch", name, _fetch_section(r, source), {}) for name, source in used.items()}
    tokenizer = graph.add("tokenizer", "bpe", _tokenizer_section(r), {} if r.pretrain.init_from else documents)

    tokens: dict[str, Artifact] = {}
    for name, source in used.items():
        for part in [*map(str, range(source.shards)), HELD_OUT]:
            upstreams = {"documents": documents[name], "tokenizer": tokenizer}
            tokens[f"{name}-{part}"] = graph.add("tokenize", f"{name}-{part}", {"part": part}, upstreams)

    start = graph.add("initialize", "model", _start_section(r), {})
    milestones: dict[str, Artifact] = {}
    last = start
    for end in [*r.pretrain.milestone_tokens, r.pretrain.token_budget]:
        section = _pretrain_section(r, end, TokenOrder.NATURAL)
        label = format_quantity(end, Unit.TOKENS)
        milestones[label] = last = graph.add("pretrain", label, section, {"start": last, **tokens})
    curves = dict(milestones)
    if r.pretrain.shuffled_control:
        section = _pretrain_section(r, r.pretrain.token_budget, TokenOrder.SHUFFLED)
        curves[SHUFFLED] = graph.add("pretrain", SHUFFLED, section, {"start": start, **tokens})
    windows = {f"pretrain.{k}": getattr(r.pretrain, k) for k in ("sequence_length", "validation_tokens")}
    domains = {f"domains.{name}": source.domain for name, source in used.items()}
    rows = {"model.vocab_size": r.model.vocab_size}  # every row of the embedding has a probability
    baselines = graph.add("baselines", "ngram", {**windows, **domains, **rows}, tokens)

    scores: dict[str, Artifact] = {}
    for label, checkpoint in ((UNTRAINED, start), (list(milestones)[-1], last)):
        upstreams = {"checkpoint": checkpoint, "tokenizer": tokenizer}
        model = graph.add("export", label, {**_model_section(r), **flatten(r.export, "export")}, upstreams)
        scores[label] = graph.add("evaluate", label, _evaluate_section(r, domains), {"model": model, **documents})
    tuned = _fine_tune(r, graph, tokenizer, last, model) if r.sft.tasks else {}
    figures = {**curves, "baselines": baselines, **{f"scores-{label}": s for label, s in scores.items()}, **tuned}
    graph.add("report", "campaign", {"name": r.name}, figures)


def _fine_tune(r: Recipe, graph: Lifecycle, tokenizer: Artifact, base: Artifact, base_model: Artifact) -> dict[str, Artifact]:
    """Conversations, packed, and the model that was trained on them from `base`; its control has others' responses. All are asked
    what was held out; `base_model` is the export of `base`."""
    packs: dict[Responses, dict[str, Artifact]] = {}
    kinds = [Responses.OWN, Responses.SHUFFLED] if r.sft.shuffled_control else [Responses.OWN]
    made = {name: graph.add("conversations", name, _conversations_section(r, name), {}) for name in r.sft.mixture}
    for kind in kinds:
        for name in r.sft.mixture:
            label = name if kind is Responses.OWN else f"{name}-{SHUFFLED}"
            section = {"sft.sequence_length": r.sft.sequence_length, "responses": kind}
            section |= {} if kind is Responses.OWN else {"seed": r.seed}
            upstreams = {"conversations": made[name], "tokenizer": tokenizer}
            packs.setdefault(kind, {})[name] = graph.add("pack", label, section, upstreams)
    trained = {}
    for kind, conversations in packs.items():
        section = _training_section(r, r.sft, "sft", r.sft.token_budget)
        label = "model" if kind is Responses.OWN else SHUFFLED
        held_out = {f"held_out-{name}": pack for name, pack in packs[Responses.OWN].items()} if kind is not Responses.OWN else {}
        trained[f"sft-{label}"] = graph.add("sft", label, section, {"start": base, **conversations, **held_out})
    models = {"base": base_model}
    for name, artifact in trained.items():
        if name != "sft-model" and not r.sft.answers.prompts:
            continue  # the control is exported to be asked
        label = FINE_TUNED if name == "sft-model" else name
        section = {**_model_section(r), **flatten(r.export, "export"), "chat": True}
        models[label] = graph.add("export", label, section, {"checkpoint": artifact, "tokenizer": tokenizer})
    asked = {"seed": r.seed, **flatten(r.sft.answers, "sft.answers"), "sft.tasks": sorted(r.sft.mixture)}
    if not r.sft.answers.prompts:
        return trained
    answers = {
        f"answers-{label}": graph.add("answers", label, asked, {"model": model, **made}) for label, model in models.items()
    }
    return {**trained, **answers}


def _conversations_section(r: Recipe, name: str) -> dict[str, Any]:
    """What decides a task's conversations: the source's records, its split, and how they are asked."""
    task = r.sft.tasks[name]
    source = _source_section(r.data.sources[task.source])
    for unused in ("licence", "domain", "max_bytes", "shards"):
        del source[f"source.{unused}"]
    section = flatten(task, "task")
    del section["task.source"], section["task.taxonomy"]  # they name the task, they do not change it
    split = _only(flatten(r.data, "data"), "data.held_out_fraction", "data.split_seed")
    return {**source, **section, **split, "tokenizer.special_tokens": r.tokenizer.special_tokens}


def _source_section(source: Source) -> dict[str, Any]:
    """Keys that came later count only where they are used."""
    section = flatten(source, "source")
    if source.kind is not SourceKind.REASONING_GYM:
        del section["source.items"], section["source.seed"]
    return section


def _fetch_section(r: Recipe, source: Source) -> dict[str, Any]:
    section = _source_section(source)
    del section["source.licence"], section["source.domain"]  # they name the text, they do not change it
    return {**section, **_only(flatten(r.data, "data"), "data.held_out_fraction", "data.split_seed")}


def _only(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: section[k] for k in keys}


def _tokenizer_section(r: Recipe) -> dict[str, Any]:
    if r.pretrain.init_from:  # the one that those weights were trained with; nothing is trained
        tokens = {"tokenizer.special_tokens": r.tokenizer.special_tokens, "model.vocab_size": r.model.vocab_size}
        return {"pretrain.init_from_sha256": r.pretrain.init_from_sha256, **tokens}
    return {**flatten(r.tokenizer, "tokenizer"), **flatten(r.pretrain.mixture, "pretrain.mixture")}


def _start_section(r: Recipe) -> dict[str, Any]:
    section = {"seed": r.seed, **_model_section(r)}
    if r.pretrain.init_from:  # what the folder holds counts, not where it lies
        section["pretrain.init_from_sha256"] = r.pretrain.init_from_sha256
    return section


def _model_section(r: Recipe) -> dict[str, Any]:
    """Keys that came later count only where they change something: recipes without them keep their artifacts."""
    section, usual = flatten(r.model, "model"), Model()
    for name in ("router", "shared_experts", "balance"):
        if getattr(r.model, name) == getattr(usual, name):
            del section[f"model.{name}"]
    if r.model.router is not Router.LOSS_FREE:
        del section["model.expert_bias_rate"]
    return section


def _pretrain_section(r: Recipe, end_tokens: int, order: TokenOrder) -> dict[str, Any]:
    domains = {f"domains.{name}": r.data.sources[name].domain for name in r.pretrain.mixture}
    return {"token_order": order, **domains, **_training_section(r, r.pretrain, "pretrain", end_tokens)}


def _training_section(r: Recipe, p: Training, name: str, end_tokens: int) -> dict[str, Any]:
    """What decides the weights at `end_tokens`: nothing that happens later is in it."""
    keys = ("sequence_length", "batch_tokens", "lr", "schedule", "warmup_tokens", "precision", "validation_tokens")
    section: dict[str, Any] = {
        "seed": r.seed,
        "end_tokens": end_tokens,
        **_model_section(r),
        **{f"{name}.{k}": getattr(p, k) for k in keys},
        **flatten(p.mixture, f"{name}.mixture"),
        **flatten(p.optimizer, f"{name}.optimizer"),
        f"{name}.batch_switches": [s for s in p.batch_switches if s.at_tokens < end_tokens],
    }
    if r.model.balance is Balance.MICRO_BATCH:
        section[f"{name}.parallel.micro_batch_size"] = p.parallel.micro_batch_size
    if p.freeze:
        section[f"{name}.freeze"] = sorted(p.freeze)
    if p.precision is Precision.FP8_BLOCKWISE:
        section["fp8_format"] = "e4m3"  # gradients were e5m2 once, and what was trained so is another result
    section.update({f"{name}.{k}": getattr(p, k) for k in ("bf16_first_layers", "bf16_last_layers") if getattr(p, k)})
    if p.spikes.action is not SpikeAction.LOG:
        section.update(flatten(p.spikes, f"{name}.spikes"))
    decay = decay_of(p)
    if decay is not None and decay.start_tokens < end_tokens:
        section["decay_start_tokens"] = decay.start_tokens
        section[f"{name}.decay_tokens"], section[f"{name}.decay_shape"] = decay.tokens, decay.shape
        section[f"{name}.min_lr"] = p.min_lr
    return section


def _evaluate_section(r: Recipe, domains: Mapping[str, Any]) -> dict[str, Any]:
    section = flatten(r.evaluate, "evaluate")
    del section["evaluate.batch_size"]
    return {**section, **domains, "max_sequence_length": r.model.max_sequence_length}
