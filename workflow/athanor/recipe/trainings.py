"""Rules of every section that trains: budgets that must fit, mixtures of what there is, layouts and precisions."""

from collections.abc import Collection, Iterator

from athanor.recipe.external import is_handed_over, trains_online, trains_pretraining
from athanor.recipe.layouts import illegal_batches, illegal_layout
from athanor.recipe.precisions import illegal_precision
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import Backend, OptimizerName, Schedule
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Training
from athanor.recipe.units import Unit, format_quantity

KNOWN_IN = {"source": "data.sources", "task": "sft.tasks"}
ONLINE = "online"
OF_MODULES = ("preference", ONLINE)
SMALLEST_WEIGHT = 1 / 2048  # the sample order is laid out in blocks of 4,096 (data.mixture)


def illegal_training(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with the sections that train, those that the recipe has."""
    for section, settings in r.trainings().items():
        if section in OF_MODULES or section in r.reward_trainings():  # no layout of Megatron's; mixtures of their own
            yield from _lengths(r, settings, section)
            if section == ONLINE and is_handed_over(r) and not trains_online(r):
                continue  # steps and rates are the other trainer's
            if section == ONLINE and r.online.backend is Backend.MEGATRON:
                yield from illegal_layout(r.model, settings, section)
                yield from illegal_precision(r, settings, section)
            yield from illegal_batches(settings, section)
            yield from _schedule(settings, section)
            continue
        known, of = (r.data.sources, "source") if section == "pretrain" else (r.sft.tasks, "task")
        yield from _lengths(r, settings, section)
        yield from illegal_layout(r.model, settings, section)
        yield from illegal_precision(r, settings, section)
        if section != "pretrain" or trains_pretraining(r):
            yield from illegal_batches(settings, section)
            yield from _schedule(settings, section)
        if section == "pretrain" and settings.optimizer.name is not OptimizerName.ADAMW:
            advice = "Megatron trains here, whose distributed optimizer is AdamW; use adamw"
            yield Problem(f"{section}.optimizer.name", settings.optimizer.name.value, advice)
        yield from _mixture(settings.mixture, section, known, of)


def _lengths(r: Recipe, t: Training, section: str) -> Iterator[Problem]:
    if t.sequence_length > r.model.max_sequence_length:
        advice = f"longer than model.max_sequence_length={r.model.max_sequence_length}"
        yield Problem(f"{section}.sequence_length", t.sequence_length, advice)


def _schedule(t: Training, section: str) -> Iterator[Problem]:
    switches = [switch.at_tokens for switch in t.batch_switches]
    if sorted(set(switches)) != switches:
        yield Problem(f"{section}.batch_switches", switches, "must be in rising order, each once")
    yield from _fits_budget(f"{section}.warmup_tokens", t.warmup_tokens, t.token_budget)
    if t.schedule is Schedule.WSD:
        yield from _fits_budget(f"{section}.decay_tokens", t.decay_tokens, t.token_budget - t.warmup_tokens)
    if t.schedule is Schedule.COSINE and t.decay_tokens:
        advice = f"unused by {section}.schedule=cosine, which falls from the warm-up to the end of the budget; use 0"
        yield Problem(f"{section}.decay_tokens", format_quantity(t.decay_tokens, Unit.TOKENS), advice)
    if t.min_lr > t.lr:
        yield Problem(f"{section}.min_lr", t.min_lr, f"above the peak {section}.lr={t.lr}")


def _fits_budget(where: str, tokens: int, room: int) -> Iterator[Problem]:
    if tokens > room:
        yield Problem(where, format_quantity(tokens, Unit.TOKENS), f"more than the {max(room, 0)} tokens there are for it")


def _mixture(mixture: dict[str, float], section: str, known: Collection[str], of: str) -> Iterator[Problem]:
    total = sum(weight for weight in mixture.values() if weight > 0)
    if not mixture:
        yield Problem(f"{section}.mixture", None, f"is empty: give weights to {', '.join(known) or 'the sources'}")
    for name, weight in mixture.items():
        key = f"{section}.mixture.{name}"
        if name not in known:
            yield Problem(key, weight, f"no such {of}; {KNOWN_IN[of]} has {', '.join(known)}")
        elif weight <= 0:
            yield Problem(key, weight, f"must be above 0; leave the {of} out to skip it")
        elif weight / total < SMALLEST_WEIGHT:
            yield Problem(key, weight, f"less than 1/2048 of the mixture; use at least {total * SMALLEST_WEIGHT:.3g}")
