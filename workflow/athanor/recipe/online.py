"""The graph and the rules of online RL: problems of the registry, the pool of prompts, and the models that learn from them."""

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from athanor.recipe.external import external_section, is_handed_over, trains_online
from athanor.recipe.graph import CHECKPOINT, FINE_TUNED, OFFLINE, PREFERENCE, PROBLEMS, Artifact, Graph
from athanor.recipe.preference import illegal_module_training
from athanor.recipe.problem_generators import illegal_corpus, problem_packages
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import (
    Backend,
    OnlineControl,
    OnlineStart,
    OptimizerName,
    PolicyLoss,
    Precision,
    Route,
    Router,
    SourceKind,
    SpikeAction,
)
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Zero
from athanor.recipe.sections import online_section, pool_section, problems_section
from athanor.recipe.units import Unit, format_quantity

IN_ORDER = (FINE_TUNED, OFFLINE, PREFERENCE)  # of the models it may start from
WITH_MEGATRON = ("torch", "megatron-core", "transformer-engine", "transformers", "reasoning-gym")
RULES = ("fluency", "safety", "brevity", "script")


def online_tasks(r: Recipe) -> list[str]:
    """The tasks of `sft.tasks` that online RL asks."""
    return [name for name in r.online.mixture if name != PROBLEMS]


def learn_online(
    r: Recipe,
    graph: Graph,
    models: Mapping[str, Artifact],
    trained: Mapping[str, Artifact],
    made: Mapping[str, Artifact],
    judge: Artifact | None,
) -> tuple[Artifact | None, dict[str, Artifact]]:
    """The problems of the registry, where the mixture has them, and the models that learn online.

    `models` are exported, by label, `trained` what they were exported from; `made` are conversations by task;
    `judge` is the reward model, where there is one. Prompts are kept apart from what the last milestone is evaluated with.
    """
    problems = None
    if PROBLEMS in r.online.mixture:
        written = {f"online.problems.{path}": _digest(graph.project / path) for path in _own_files(r)}
        problems = graph.add(PROBLEMS, "registry", problems_section(r) | written, {}, problem_packages(r))
    start = models[_start(r)]
    asked = {task: made[task] for task in online_tasks(r)} | ({PROBLEMS: problems} if problems else {})
    suites = {"suites": graph[f"evaluate/{format_quantity(r.pretrain.token_budget, Unit.TOKENS)}"]} if r.online.ngram else {}
    pool = graph.add("pool", "online", pool_section(r), {"model": start, **asked, **suites})
    upstreams = {"start": start, "pool": pool}
    if judge is not None and Route.REWARD_MODEL in _routes(r).values():
        upstreams["reward"] = judge
    megatron = r.online.backend is Backend.MEGATRON
    learnt = {}
    for label in ("model", *r.online.controls):
        more = {"rewards": label} if label != "model" else {"online.average": r.online.average} if r.online.average else {}
        handed_over = label == "model" and is_handed_over(r)
        section = external_section(r, graph.project) if handed_over else {**online_section(r), **more}
        own = {CHECKPOINT: trained[_start(r)]} if megatron and not handed_over and _start(r) in trained else {}
        packages = WITH_MEGATRON if own else ()
        learnt[str(label)] = graph.add("online", str(label), section, upstreams | own, packages)
    return problems, learnt


def illegal_generator_files(r: Recipe, project: Path) -> Iterator[Problem]:
    """Generators of one's own whose file is not there."""
    for path in _own_files(r):
        if not (project / path).is_file():
            advice = f"no such file; relative paths start at {project}"
            yield Problem("online.problems.generators", path, advice)


def _own_files(r: Recipe) -> list[str]:
    """Of generators `FILE.py:Class`, each file once."""
    names = (name.rpartition(":")[0] for name in r.online.problems.generators)
    return sorted({path for path in names if path}) if r.learns_online else []


def _digest(path: Path) -> str:
    """What a file of one's own holds decides the problems; one that is missing is told by the check."""
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _routes(r: Recipe) -> dict[str, Route]:
    return {task: r.online.routes.get(task, Route.VERIFIER) for task in r.online.mixture}


def _start(r: Recipe) -> str:
    """The label of the model that learns."""
    if r.online.start is not OnlineStart.LAST:
        return r.online.start.value
    there = {FINE_TUNED: True, OFFLINE: r.learns_offline, PREFERENCE: r.learns_preferences}
    return [label for label in IN_ORDER if there[label]][-1]


def illegal_online(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with `online` beyond what any training may have."""
    o, where = r.online, "online"
    if not r.learns_online:
        return
    yield from _prompts(r)
    yield from illegal_corpus(r)
    yield from _rounds(r)
    if (o.start is OnlineStart.OFFLINE and not r.learns_offline) or (
        o.start is OnlineStart.PREFERENCE and not r.learns_preferences
    ):
        yield Problem(f"{where}.start", o.start.value, "the recipe has no such model; use last")
    if o.objective.kind is PolicyLoss.OREAL and set(_routes(r).values()) != {Route.VERIFIER}:
        advice = "oreal clones what is right and pushes down what is wrong, which verifiers alone can tell; use clipped"
        yield Problem(f"{where}.objective.kind", o.objective.kind.value, advice)
    for number, pattern in enumerate(o.forbidden):
        try:
            re.compile(pattern)
        except re.error as error:
            yield Problem(f"{where}.forbidden[{number}]", pattern, f"is no regular expression: {error}")
    if unknown := sorted(set(o.rule_weights) - set(RULES)):
        yield Problem(
            f"{where}.rule_weights.{unknown[0]}", o.rule_weights[unknown[0]], f"no such rule; there is {', '.join(RULES)}"
        )
    if unknown := sorted(set(o.shares) - {route.value for route in _routes(r).values()}):
        yield Problem(f"{where}.shares.{unknown[0]}", o.shares[unknown[0]], "no task of the mixture has this route; leave it out")
    if OnlineControl.RANDOM in o.controls and Route.REWARD_MODEL in _routes(r).values():
        advice = "draws rewards of 0 and 1, and the reward model's have no such scale; use shuffled"
        yield Problem(f"{where}.controls", [control.value for control in o.controls], advice)
    if trains_online(r):
        yield from _by_megatron(r) if o.backend is Backend.MEGATRON else _by_deepspeed(r)


def _by_deepspeed(r: Recipe) -> Iterator[Problem]:
    o, where = r.online, "online"
    if o.drop_norms and (o.zero.stage or o.precision is not Precision.FP32):
        advice = f"DeepSpeed tells a norm when the step is done, but for {where}.zero.stage=0 in fp32; use these, or 0"
        yield Problem(f"{where}.drop_norms", o.drop_norms, advice)
    if o.zero.stage == 3:
        yield Problem(f"{where}.zero.stage", 3, "the weights are handed over whole each round; use 2")
    yield from illegal_module_training(o, o.zero, where)


def _by_megatron(r: Recipe) -> Iterator[Problem]:
    """What Megatron's loop cannot have here; its layout and precision are checked as every other training's."""
    o, where = r.online, "online"
    if r.sft.backend is not Backend.MEGATRON:
        advice = "goes on from Megatron's checkpoint, and sft.backend=deepspeed leaves none; use deepspeed"
        yield Problem(f"{where}.backend", o.backend.value, advice)
    elif _start(r) == PREFERENCE:
        advice = "preference learning leaves no checkpoint of Megatron's; use offline, or online.backend=deepspeed"
        yield Problem(f"{where}.start", o.start.value, advice)
    refused = {
        "objective.reference_kl": (o.objective.reference_kl, "would need a second model beside Megatron's; use 0, or kl_cov"),
        "zero.offload": (o.zero.offload, "Megatron's optimizer stays on the device; use false"),
        "noise_scale_every_steps": (o.noise_scale_every_steps, "counts every token, and here answers alone count; use 0"),
    }
    for name, (value, advice) in refused.items():
        if value:
            yield Problem(f"{where}.{name}", value, advice)
    if o.zero.stage != Zero().stage:
        advice = f"Megatron's optimizer is always spread as in stage 1; use {Zero().stage}"
        yield Problem(f"{where}.zero.stage", o.zero.stage, advice)
    m = r.model
    if m.num_experts and not o.freeze_router and (m.aux_loss_coefficient or m.z_loss_coefficient or m.router is Router.LOSS_FREE):
        advice = (
            "what balances experts would count prompts and what fills windows up as if it were learnt; use true, or deepspeed"
        )
        yield Problem(f"{where}.freeze_router", False, advice)
    if o.parallel.context != 1:
        advice = "a context rank would hold parts of answers, which the local attention cannot tell apart; use 1"
        yield Problem(f"{where}.parallel.context", o.parallel.context, advice)
    if o.optimizer.name is not OptimizerName.ADAMW:
        advice = "Megatron's distributed optimizer is AdamW here; use adamw"
        yield Problem(f"{where}.optimizer.name", o.optimizer.name.value, advice)
    if o.spikes.action is SpikeAction.ROLL_BACK:
        advice = "what follows a spike is answered by the weights that there were; use skip, or log"
        yield Problem(f"{where}.spikes.action", o.spikes.action.value, advice)


def _prompts(r: Recipe) -> Iterator[Problem]:
    o, where = r.online, "online"
    if not r.sft.mixture and not r.learns_offline:  # where it does, that is said of offline RL
        yield Problem(
            f"{where}.mixture", list(o.mixture), "there is no fine-tuned model to start from; give sft.tasks and sft.mixture"
        )
    for task, weight in o.mixture.items():
        if task != PROBLEMS and r.sft.tasks and task not in r.sft.tasks:
            known = ", ".join([*r.sft.tasks, PROBLEMS])
            yield Problem(f"{where}.mixture.{task}", weight, f"no such task; there is {known}")
        if weight <= 0:
            yield Problem(f"{where}.mixture.{task}", weight, "is not above 0; leave the task out")
    if PROBLEMS in r.sft.tasks:
        yield Problem(f"sft.tasks.{PROBLEMS}", None, f"{where}.mixture calls the registry's so; give it another name")
    if PROBLEMS in o.mixture and not o.problems.generators:
        advice = f"{where}.mixture asks for them; name some, or all: athanor task audit lists them"
        yield Problem(f"{where}.problems.generators", o.problems.generators, advice)
    for task, route in o.routes.items():
        if task not in o.mixture:
            yield Problem(f"{where}.routes.{task}", route.value, f"not in {where}.mixture; leave it out")
        if task == PROBLEMS and route is not Route.VERIFIER:
            yield Problem(f"{where}.routes.{task}", route.value, "problems have verifiers; leave it out")
    if Route.REWARD_MODEL in _routes(r).values() and "reward.tune" not in r.reward_trainings():
        advice = "there is no reward model; give reward.tune.token_budget, or another route"
        tasks = [task for task, route in _routes(r).items() if route is Route.REWARD_MODEL]
        yield Problem(f"{where}.routes.{tasks[0]}", Route.REWARD_MODEL.value, advice)
    if Route.JUDGE in _routes(r).values() and not o.judge.model:
        yield Problem(f"{where}.judge.model", o.judge.model, "a task has route judge; name the model that judges")
    for task in online_tasks(r):
        source = r.data.sources.get(r.sft.tasks[task].source) if task in r.sft.tasks else None
        judged = source is not None and source.kind is SourceKind.REASONING_GYM
        if source is not None and not judged and task not in o.routes:
            advice = (
                "no verifier judges its answers; say who rewards them: verifier (the text on record alone is right), "
                "reward_model, judge or rules"
            )
            yield Problem(f"{where}.routes", {name: route.value for name, route in o.routes.items()}, f"{task}: {advice}")


def _rounds(r: Recipe) -> Iterator[Problem]:
    o, where = r.online, "online"
    whole = o.prompts * o.samples * o.sequence_length
    told = f"a round of {o.prompts} x {o.samples} answers of {o.sequence_length} tokens"
    sizes = {f"{where}.batch_tokens": o.batch_tokens} if trains_online(r) else {}
    sizes |= {f"{where}.batch_switches[{i}].batch_tokens": switch.batch_tokens for i, switch in enumerate(o.batch_switches)}
    for name, size in sizes.items():
        if size > 0 and whole % size:
            yield Problem(name, size, f"{told} does not cut into such steps; use a divisor of {whole}")
    for i, switch in enumerate(o.batch_switches):
        if switch.at_tokens % whole:
            advice = f"not behind a whole round; use a multiple of {whole}"
            yield Problem(f"{where}.batch_switches[{i}].at_tokens", switch.at_tokens, advice)
    if o.token_budget % whole:
        rounds = max(1, round(o.token_budget / whole))
        advice = f"not a number of whole rounds, each {told}; {rounds} are {rounds * whole}"
        yield Problem(f"{where}.token_budget", format_quantity(o.token_budget, Unit.TOKENS), advice)
    if o.max_new_tokens >= o.sequence_length:
        advice = f"leaves no room for a prompt in {where}.sequence_length={o.sequence_length}; lower it"
        yield Problem(f"{where}.max_new_tokens", o.max_new_tokens, advice)
    rounds = o.token_budget // whole
    if o.average and not 2 <= o.average <= rounds:
        advice = f"there are {rounds} rounds; average 2 to {rounds}, or use 0" if rounds > 1 else "there is one round; use 0"
        yield Problem(f"{where}.average", o.average, advice)
    if o.tokens_a_round and (o.max_new_tokens % o.tokens_a_round or o.tokens_a_round >= o.max_new_tokens):
        advice = f"does not cut {where}.max_new_tokens={o.max_new_tokens} into equal parts; use a divisor, or 0"
        yield Problem(f"{where}.tokens_a_round", o.tokens_a_round, advice)
    if o.filter.drop_up_to >= o.filter.drop_from:
        advice = f"no pass rate lies between it and {where}.filter.drop_from={o.filter.drop_from:g}; lower it"
        yield Problem(f"{where}.filter.drop_up_to", o.filter.drop_up_to, advice)
