"""Short fine-tunings that decide a mixture: each task alone, then combinations, all from the same start for as many tokens."""

from collections.abc import Iterator
from dataclasses import replace

from athanor.recipe.problems import Problem
from athanor.recipe.schema.post_training import Sft
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.units import Unit, format_quantity

SEARCH = "search-"  # before the name of a mixture in an artifact's
OWN = "mixture"  # the one of the recipe, which the others are compared with


def mixtures(sft: Sft) -> dict[str, dict[str, float]]:
    """Every mixture that is tried, by name; none without a search."""
    if not sft.search.token_budget:
        return {}
    alone = {task: {task: 1.0} for task in sft.search.alone or sft.mixture}
    return {**alone, **sft.search.combinations, OWN: dict(sft.mixture)}


def settings_of(sft: Sft, name: str) -> Sft:
    """How a mixture is tried: as in the section `sft`, with a schedule of the same shape over the smaller budget."""
    budget = sft.search.token_budget
    warmup, decay = (tokens * budget // sft.token_budget for tokens in (sft.warmup_tokens, sft.decay_tokens))
    shorter = {"token_budget": budget, "warmup_tokens": warmup, "decay_tokens": decay, "batch_switches": []}
    return replace(sft, mixture=mixtures(sft)[name], **shorter)  # type: ignore[arg-type]


def illegal_search(r: Recipe) -> Iterator[Problem]:
    """Mixtures of unknown tasks, names that would mean two, and trials longer than what they are for."""
    search, where = r.sft.search, "sft.search"
    if not search.token_budget:
        return
    if search.token_budget > r.sft.token_budget:
        advice = f"a trial is longer than fine-tuning itself, sft.token_budget={format_quantity(r.sft.token_budget, Unit.TOKENS)}"
        yield Problem(f"{where}.token_budget", format_quantity(search.token_budget, Unit.TOKENS), f"{advice}; lower it")
    named = {f"{where}.alone[{i}]": [task] for i, task in enumerate(search.alone)}
    named |= {f"{where}.combinations.{name}": list(mixture) for name, mixture in search.combinations.items()}
    for key, tasks in named.items():
        if unknown := [task for task in tasks if task not in r.sft.mixture]:
            yield Problem(key, unknown, f"no such task in sft.mixture, which has {', '.join(r.sft.mixture)}")
    for name, mixture in search.combinations.items():
        key = f"{where}.combinations.{name}"
        if name == OWN or name in r.sft.tasks or not name.replace("_", "").isalnum():
            yield Problem(key, name, "is a task's name, the recipe's own mixture's, or no word; use another")
        if not mixture or min(mixture.values()) <= 0:
            yield Problem(key, mixture, "give every task of a mixture a weight above 0")
