"""Rules between keys: sizes that must divide, budgets that must fit, sources that must exist and be allowed."""

import glob
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from athanor.recipe.combinations import illegal_combinations
from athanor.recipe.environments import environments
from athanor.recipe.external import illegal_external, illegal_external_files
from athanor.recipe.finetuning import illegal_finetuning
from athanor.recipe.folders import illegal_folders, not_sha256
from athanor.recipe.generators import illegal_problems, other_versions
from athanor.recipe.online import illegal_generator_files, illegal_online
from athanor.recipe.precisions import illegal_export
from athanor.recipe.preference import illegal_preference
from athanor.recipe.problems import Problem, not_divisible
from athanor.recipe.reward import illegal_reward
from athanor.recipe.reward_training import illegal_reward_training
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.choices import Router, SourceKind, Suite
from athanor.recipe.schema.post_training import Offline
from athanor.recipe.schema.recipe import Recipe, Source
from athanor.recipe.schema.training import Model, Pretrain
from athanor.recipe.trainings import illegal_training
from athanor.recipe.units import Unit, format_quantity
from athanor.recipe.virtual_tokens import illegal_start, illegal_virtual_tokens


def inconsistencies(recipe: Recipe, project: Path) -> list[Problem]:
    """Every rule the recipe breaks; `project` is where relative paths of local sources start."""
    found = {str(problem): problem for rule in RULES for problem in rule(recipe)}  # one size may fit neither of two sections
    return [
        *found.values(),
        *_missing_files(recipe, project),
        *other_versions(recipe, project),
        *illegal_folders(recipe, project),
        *illegal_start(recipe, project),
        *illegal_generator_files(recipe, project),
        *illegal_external_files(recipe, project),
    ]


def _model(r: Recipe) -> Iterator[Problem]:
    m = r.model
    yield from not_divisible("model.num_attention_heads", m.num_attention_heads, "model.num_query_groups", m.num_query_groups)
    if m.head_dim % 2:
        yield Problem("model.head_dim", m.head_dim, f"rotary positions need an even width; use {m.head_dim + 1}")
    if not m.qk_norm:
        yield Problem("model.qk_norm", m.qk_norm, "the Hugging Face forms (Qwen3, Qwen3-MoE) have it built in; use true")
    if m.num_experts and m.experts_per_token > m.num_experts:
        yield Problem("model.experts_per_token", m.experts_per_token, f"at most model.num_experts={m.num_experts}")
    yield from _router(m)
    if m.vocab_size < r.tokenizer.vocab_size and not r.pretrain.init_from:
        advice = f"smaller than tokenizer.vocab_size={r.tokenizer.vocab_size}; use at least that"
        yield Problem("model.vocab_size", m.vocab_size, advice)
    if len(r.tokenizer.special_tokens) < 2 or len(set(r.tokenizer.special_tokens)) < len(r.tokenizer.special_tokens):
        advice = "at least two different tokens: the first ends a document, the second pads"
        yield Problem("tokenizer.special_tokens", r.tokenizer.special_tokens, advice)


def _router(m: Model) -> Iterator[Problem]:
    """Together or not at all: of the Hugging Face forms Qwen3-MoE has neither a bias nor shared experts, Glm4Moe both."""
    loss_free = m.router is Router.LOSS_FREE
    if not m.num_experts and (loss_free or m.shared_experts):
        yield Problem(
            "model.num_experts", 0, "there is no router and no expert to share; use model.router=softmax, shared_experts=0"
        )
    elif loss_free and not m.shared_experts:
        yield Problem("model.shared_experts", 0, "the Hugging Face form of a loss_free router (Glm4Moe) has some; use 1 or more")
    elif m.shared_experts and not loss_free:
        advice = "only with model.router=loss_free: the Hugging Face form of a softmax router (Qwen3-MoE) has none; use 0"
        yield Problem("model.shared_experts", m.shared_experts, advice)
    if loss_free and m.tie_embeddings:
        yield Problem(
            "model.tie_embeddings", True, "Glm4Moe, the Hugging Face form of model.router=loss_free, has them apart; use false"
        )


def _milestones(r: Recipe) -> Iterator[Problem]:
    yield from _points(r.pretrain, "pretrain", own=not r.pretrain.external.command)
    if r.learns_offline:
        yield from _points(r.offline, "offline")


def _points(p: Pretrain | Offline, section: str, own: bool = True) -> Iterator[Problem]:
    """`own`: Athanor's trainer reaches them, whose steps are known."""
    if sorted(set(p.milestone_tokens)) != p.milestone_tokens:
        yield Problem(f"{section}.milestone_tokens", p.milestone_tokens, "must be rising, each once")
    for i, tokens in enumerate(p.milestone_tokens):
        if tokens >= p.token_budget:
            budget = format_quantity(p.token_budget, Unit.TOKENS)
            advice = f"does not fit {section}.token_budget={budget}, where the last milestone ends by itself; leave it out"
            yield Problem(f"{section}.milestone_tokens[{i}]", format_quantity(tokens, Unit.TOKENS), advice)
    ends = [*(n for n in p.milestone_tokens if n < p.token_budget), p.token_budget]
    for before, end in pairwise(ends):
        if own and 0 < end - before < (step := BatchSizes.of(p).at(before)):
            where = f"{section}.token_budget" if end == p.token_budget else f"{section}.milestone_tokens[{ends.index(end)}]"
            advice = f"ends within the step of {step} tokens that may end the milestone before; use at least {before + step}"
            yield Problem(where, format_quantity(end, Unit.TOKENS), advice)
    if p.average and not 2 <= p.average <= (points := len(ends)):
        advice = f"{section}.milestone_tokens and the end are {points} points; average 2 to {points}, or add points, or use 0"
        alone = f"the end is the only point; add {section}.milestone_tokens, or use 0"
        yield Problem(f"{section}.average", p.average, advice if points > 1 else alone)


def floating(source: Source) -> str:
    """What is left open about which bytes a source is: `version`, `sha256`, or nothing."""
    if source.kind is not SourceKind.LOCAL and not source.version:
        return "version"
    pinned = source.kind in (SourceKind.HUGGINGFACE, SourceKind.REASONING_GYM)  # a hub revision is a hash
    return "" if source.sha256 or pinned else "sha256"


def _sources(r: Recipe) -> Iterator[Problem]:
    if not r.data.sources:
        yield Problem("data.sources", None, "is empty: declare at least one corpus")
    for name, source in r.data.sources.items():
        where = f"data.sources.{name}"
        if not name.replace("_", "").isalnum():
            yield Problem(where, None, "a source's name is letters, digits and _ (it becomes a file name)")
        if source.licence not in r.data.licences_allowed:
            advice = f"not among data.licences_allowed={r.data.licences_allowed}; add it there if this campaign may use it"
            yield Problem(f"{where}.licence", source.licence, advice)
        if source.kind is not SourceKind.LOCAL and not source.package:
            yield Problem(f"{where}.package", source.package, f"{where}.kind={source.kind} needs a package name")
        elif missing := floating(source):
            named = f"{source.package or source.path} {source.version}".strip()
            yield Problem(where, named, f"floats (no {missing}); lock it: athanor recipe lock {r.name}")
        yield from not_sha256(f"{where}.sha256", source.sha256)
        yield from illegal_problems(where, source)


def _suites(r: Recipe) -> Iterator[Problem]:
    domains = {s.domain for s in r.data.sources.values()}
    if Suite.MOLECULE_CHOICE in r.evaluate.suites and "molecules" not in domains:
        advice = "molecule_choice needs a source of domain molecules in data.sources; add one or leave the suite out"
        yield Problem("evaluate.suites", [s.value for s in r.evaluate.suites], advice)
    if len(set(r.evaluate.suites)) < len(r.evaluate.suites):
        yield Problem("evaluate.suites", [s.value for s in r.evaluate.suites], "names a suite twice")


def _missing_files(r: Recipe, project: Path) -> Iterator[Problem]:
    for name, source in r.data.sources.items():
        if source.kind is SourceKind.LOCAL and not _exists(source.path, project):
            yield Problem(f"data.sources.{name}.path", source.path, f"no such file; relative paths start at {project}")
    if r.environment not in (known := environments(project)):
        advice = f"no such environment in {project / 'envs'}; there is {' or '.join(known) or 'none: make lock'}"
        yield Problem("environment", r.environment, advice)


def _exists(path: str, project: Path) -> bool:
    """Whether a file, folder or glob of a local source leads anywhere. An empty path would mean the whole project."""
    return bool(path) and bool(glob.glob(str(project / path), recursive=True))


RULES: tuple[Callable[[Recipe], Iterator[Problem]], ...] = (
    _model, _milestones, _sources, illegal_training, illegal_finetuning, illegal_combinations, illegal_virtual_tokens,
    illegal_preference, illegal_online, illegal_external, illegal_reward, illegal_reward_training, illegal_export, _suites,
)  # fmt: skip
