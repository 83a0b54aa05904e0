"""Which keys of the recipe decide the result of which stage: an artifact's section, by dotted path.

Not in any: the site, the layout over ranks, micro-batch, checkpoint interval, logging, licences, names. A key that came later
counts only where it changes something, so that recipes without it keep their artifacts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from athanor.recipe.fingerprint import flatten
from athanor.recipe.labels import labelled_tasks
from athanor.recipe.schedules import decay_of
from athanor.recipe.schema.choices import (
    Backend,
    Balance,
    Comparison,
    OptimizerName,
    PeftKind,
    Precision,
    PreferenceKind,
    Responses,
    RewardEngine,
    RolloutEngine,
    Route,
    Router,
    SourceKind,
    SpikeAction,
    TokenOrder,
)
from athanor.recipe.schema.recipe import Recipe, Source
from athanor.recipe.schema.training import Model, Optimizer, Peft, Training

ALL = "all"  # of online.problems.generators: every one that is known
KNOWN = 2  # raised when `all` comes to mean others: by it a recipe that says so has other problems
_NOT_READ = ("licence", "domain", "max_bytes", "shards")  # of a source whose records are read for what is not its text


def conversations_section(r: Recipe, name: str) -> dict[str, Any]:
    """What decides a task's conversations: the source's records, its split, and how they are asked."""
    task = r.sft.tasks[name]
    source = source_section(r.data.sources[task.source])
    for unused in _NOT_READ:
        del source[f"source.{unused}"]
    section = flatten(task, "task")
    del section["task.source"], section["task.taxonomy"]  # they name the task, they do not change it
    split = only(flatten(r.data, "data"), "data.held_out_fraction", "data.split_seed")
    return {**source, **section, **split, "tokenizer.special_tokens": r.tokenizer.special_tokens}


def source_section(source: Source) -> dict[str, Any]:
    """Keys that came later count only where they are used."""
    section = flatten(source, "source")
    if source.kind is not SourceKind.REASONING_GYM:
        del section["source.items"], section["source.seed"]
    return section


def pack_section(r: Recipe, kind: Responses) -> dict[str, Any]:
    """What decides a task's windows beside its conversations."""
    if kind in (Responses.BEST, Responses.DRAWN):
        return {"offline.sequence_length": r.offline.sequence_length, "responses": kind}
    section = {"sft.sequence_length": r.sft.sequence_length, "responses": kind}
    return section if kind is Responses.OWN else {**section, "seed": r.seed}


def labels_section(r: Recipe) -> dict[str, Any]:
    """What decides how often a task's training questions are answered right."""
    keys = ("questions", "samples", "temperature", "max_new_tokens")
    return {"seed": r.seed, **{f"sft.labels.{k}": getattr(r.sft.labels, k) for k in keys}, **engine_section(r)}


def curation_section(r: Recipe) -> dict[str, Any]:
    """What decides the level of each of them, and what is learnt of a level."""
    labels = r.sft.labels
    section: dict[str, Any] = {f"sft.labels.{k}": getattr(labels, k) for k in ("easy_from", "hard_up_to")}
    if labels.drop:
        section |= {"sft.labels.drop": sorted(set(labels.drop)), "sft.labels.floor": labels.floor}
    return {**section, **flatten(labels.repeats, "sft.labels.repeats")}


def rollouts_section(r: Recipe) -> dict[str, Any]:
    """What decides the answers to one task's training questions, and their scores."""
    keys = ("prompts", "samples", "temperature", "top_p", "top_k", "max_new_tokens", "forbidden")
    return {"seed": r.seed, **{f"offline.{k}": getattr(r.offline, k) for k in keys}, **engine_section(r)}


def answers_section(r: Recipe) -> dict[str, Any]:
    """What decides the answers to held-out questions."""
    return {"seed": r.seed, **flatten(r.sft.answers, "sft.answers"), "sft.tasks": sorted(r.sft.mixture), **engine_section(r)}


def engine_section(r: Recipe) -> dict[str, Any]:
    """What answers prompts, where that is not the stage itself."""
    in_process = r.rollouts.engine is RolloutEngine.IN_PROCESS
    return {} if in_process else flatten(r.rollouts, "rollouts")


def selection_section(r: Recipe) -> dict[str, Any]:
    """What decides which of them are learnt from."""
    section = {"seed": r.seed, **flatten(r.offline.filter, "offline.filter"), **weights_section(r)}
    return {**section, "offline.weights.reward": r.offline.weights.reward} if r.offline.weights.reward else section


def weights_section(r: Recipe) -> dict[str, Any]:
    """What the components count that need no reward model."""
    section = flatten(r.offline.weights, "offline.weights")
    del section["offline.weights.reward"]
    return section


def ranks_section(r: Recipe) -> dict[str, Any]:
    """What decides the ranks that are made of scored answers."""
    return {"reward.ranks_a_question": r.reward.ranks_a_question, **score_section(r), **weights_section(r)}


def score_section(r: Recipe) -> dict[str, Any]:
    """What decides the scores of answers, beside these and the reward model: of which questions they are told apart."""
    return {"seed": r.seed, "reward.ranks_aside": r.reward.ranks_aside}


def pairs_section(r: Recipe) -> dict[str, Any]:
    """What decides which answers are right and wrong to one question."""
    return weights_section(r)


def preference_section(r: Recipe) -> dict[str, Any]:
    """What decides what is learnt from them. KTO's estimate of a divergence is the mean over a micro-batch."""
    settings = r.preference
    section = training_section(r, settings, "preference", settings.token_budget)
    section |= {f"preference.{name}": getattr(settings, name) for name in ("kind", "beta", "measured")}
    if settings.nll_weight:
        section["preference.nll_weight"] = settings.nll_weight
    if settings.kind is PreferenceKind.KTO:
        section["preference.parallel.micro_batch_size"] = settings.parallel.micro_batch_size
    return section


def problems_section(r: Recipe) -> dict[str, Any]:
    """What decides the problems of the task registry."""
    section = {"seed": r.seed, **flatten(replace(r.online.problems, corpus={}), "online.problems")}
    if ALL in r.online.problems.generators:
        section["online.problems.all"] = KNOWN
    if r.online.problems.corpus:
        section |= only(flatten(r.data, "data"), "data.held_out_fraction", "data.split_seed")
    for name, fields in r.online.problems.corpus.items():
        source = (
            source_section(r.data.sources[name]) if name in r.data.sources else {}
        )  # the check tells of one that there is not
        read = {k: v for k, v in source.items() if k.removeprefix("source.") not in _NOT_READ}
        section |= {f"online.problems.corpus.{name}.{k}": v for k, v in {**read, **flatten(fields, "fields")}.items()}
    return section


def pool_section(r: Recipe) -> dict[str, Any]:
    """What decides the prompts of online RL, and which of them are too easy or too hard for the start."""
    o = r.online
    keys = ("pool", "max_new_tokens", "probes", "ngram", "watched")
    routes = {f"online.routes.{task}": o.routes.get(task, Route.VERIFIER) for task in o.mixture}
    filtered = flatten(o.filter, "online.filter") if o.probes else {}
    return {"seed": r.seed, **{f"online.{k}": getattr(o, k) for k in keys}, **routes, **filtered, **engine_section(r)}


def online_section(r: Recipe) -> dict[str, Any]:
    """What decides what is learnt online. What is kept for looking at does not."""
    o = r.online
    keys = ["prompts", "samples", "max_new_tokens", "curriculum", "comparison", "forbidden", "staleness", "drop_norms"]
    keys += ["freeze_router"] if r.model.num_experts else []
    keys += ["ema"] if o.comparison is Comparison.EMA else []
    section = training_section(r, o, "online", o.token_budget) | {f"online.{k}": getattr(o, k) for k in keys}
    section |= flatten(o.objective, "online.objective") | flatten(o.shares, "online.shares")
    if Route.RULES in o.routes.values():
        section |= flatten(o.rule_weights, "online.rule_weights")
    if o.backend is Backend.MEGATRON:
        section["online.backend"] = o.backend
    if o.tokens_a_round:
        section["online.tokens_a_round"] = o.tokens_a_round
    if Route.JUDGE in o.routes.values():
        section |= flatten(o.judge, "online.judge")
    if Route.REWARD_MODEL in o.routes.values() and o.reward_engine is not RewardEngine.IN_PROCESS:
        section["online.reward_engine"] = o.reward_engine
    return {**section, **engine_section(r)}


def fetch_section(r: Recipe, source: Source) -> dict[str, Any]:
    section = source_section(source)
    del section["source.licence"], section["source.domain"]  # they name the text, they do not change it
    return {**section, **only(flatten(r.data, "data"), "data.held_out_fraction", "data.split_seed")}


def only(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: section[k] for k in keys}


def tokenizer_section(r: Recipe) -> dict[str, Any]:
    if r.pretrain.init_from:  # the one that those weights were trained with; nothing is trained
        tokens = {"tokenizer.special_tokens": r.tokenizer.special_tokens, "model.vocab_size": r.model.vocab_size}
        return {"pretrain.init_from_sha256": r.pretrain.init_from_sha256, **tokens}
    return {**flatten(r.tokenizer, "tokenizer"), **flatten(r.pretrain.mixture, "pretrain.mixture")}


def start_section(r: Recipe) -> dict[str, Any]:
    section = {"seed": r.seed, **model_section(r)}
    if r.pretrain.init_from:  # what the folder holds counts, not where it lies
        section["pretrain.init_from_sha256"] = r.pretrain.init_from_sha256
    return section


def model_section(r: Recipe) -> dict[str, Any]:
    """Keys that came later count only where they change something: recipes without them keep their artifacts."""
    section, usual = flatten(r.model, "model"), Model()
    for name in ("router", "shared_experts", "balance"):
        if getattr(r.model, name) == getattr(usual, name):
            del section[f"model.{name}"]
    if r.model.router is not Router.LOSS_FREE:
        del section["model.expert_bias_rate"]
    return section


def pretrain_section(r: Recipe, end_tokens: int, order: TokenOrder) -> dict[str, Any]:
    domains = {f"domains.{name}": r.data.sources[name].domain for name in r.pretrain.mixture}
    return {"token_order": order, **domains, **training_section(r, r.pretrain, "pretrain", end_tokens)}


def training_section(r: Recipe, p: Training, name: str, end_tokens: int) -> dict[str, Any]:
    """What decides the weights at `end_tokens`: nothing that happens later is in it."""
    keys = ("sequence_length", "batch_tokens", "lr", "schedule", "warmup_tokens", "precision", "validation_tokens")
    section: dict[str, Any] = {
        "seed": r.seed,
        "end_tokens": end_tokens,
        **model_section(r),
        **{f"{name}.{k}": getattr(p, k) for k in keys},
        **flatten(p.mixture, f"{name}.mixture"),
        **optimizer_section(p.optimizer, f"{name}.optimizer"),
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


OF_ADAMW = ("beta1", "beta2", "epsilon", "weight_decay", "clip_grad")
USED = {  # by each rule, besides its name
    OptimizerName.ADAMW: OF_ADAMW,
    OptimizerName.LION: ("beta1", "beta2", "weight_decay", "clip_grad"),
    OptimizerName.ADAN: (*OF_ADAMW, "beta3"),
    OptimizerName.SOPHIA: ("beta1", "beta2", "rho", "estimate_every_steps", "weight_decay", "clip_grad"),
    OptimizerName.MUON: (*OF_ADAMW, "momentum"),
    OptimizerName.LOMO: ("clip_grad",),
    OptimizerName.ADALOMO: ("weight_decay", "clip_grad"),
}


def optimizer_section(optimizer: Optimizer, where: str) -> dict[str, Any]:
    """The keys that the rule knows; AdamW's name is left out, since it was the only one once."""
    section = {f"{where}.{name}": getattr(optimizer, name) for name in USED[optimizer.name]}
    return section if optimizer.name is OptimizerName.ADAMW else {f"{where}.name": optimizer.name, **section}


def evaluate_section(r: Recipe, domains: Mapping[str, Any]) -> dict[str, Any]:
    section = flatten(r.evaluate, "evaluate")
    del section["evaluate.batch_size"]
    return {**section, **domains, "max_sequence_length": r.model.max_sequence_length}


def report_section(r: Recipe) -> dict[str, Any]:
    """What a report says beside what it measured: the names under which tasks are counted that are labelled."""
    return {"name": r.name, **{f"sft.tasks.{name}.taxonomy": r.sft.tasks[name].taxonomy for name in labelled_tasks(r)}}


def backend_section(backend: Backend, peft: Peft, name: str) -> dict[str, Any]:
    """What `sft.backend` adds to a training of section `name`: nothing for Megatron. ZeRO spreads the same step over ranks."""
    if backend is Backend.MEGATRON:
        return {}
    section: dict[str, Any] = {"sft.backend": backend}
    if peft.kind is not PeftKind.NONE:
        section[f"{name}.peft.kind"] = peft.kind
    if peft.kind in (PeftKind.LORA, PeftKind.DORA):
        section |= {f"{name}.peft.rank": peft.rank, f"{name}.peft.alpha": peft.alpha}
    if peft.kind is PeftKind.PROMPT:
        section[f"{name}.peft.tokens"] = peft.tokens
    return section
