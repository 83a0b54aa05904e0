"""Which tasks are labelled by difficulty, and the rules of section `sft.labels`."""

import math
from collections.abc import Iterator

from athanor.recipe.mixture_search import mixtures
from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import Difficulty, Extract, SourceKind
from athanor.recipe.schema.recipe import Recipe

WHERE = "sft.labels"


def labelled_tasks(r: Recipe) -> list[str]:
    """The tasks whose training questions are asked; none without a model to ask."""
    if not r.sft.labels.by:
        return []
    return r.sft.labels.tasks or [name for name in r.sft.mixture if _is_generated(r, name)]


def illegal_labels(r: Recipe) -> Iterator[Problem]:
    """A model or tasks that there are not, answers that nothing can check, levels that no pass rate has or that all go."""
    labels = r.sft.labels
    if not labels.by:
        if labels.tasks or labels.drop or labels.repeats:
            yield Problem(
                f"{WHERE}.by", None, "names no model that labels; give a mixture of sft.search, or leave the section out"
            )
        return
    yield from _model_and_tasks(r)
    yield from _levels(r)
    if labels.max_new_tokens >= r.model.max_sequence_length:
        advice = f"leaves no room for a question in model.max_sequence_length={r.model.max_sequence_length}; lower it"
        yield Problem(f"{WHERE}.max_new_tokens", labels.max_new_tokens, advice)


def _model_and_tasks(r: Recipe) -> Iterator[Problem]:
    labels, tried = r.sft.labels, mixtures(r.sft)
    if not tried:
        yield Problem(f"{WHERE}.by", labels.by, "nothing is tried, so that no model can label; give sft.search.token_budget")
    elif labels.by not in tried:
        yield Problem(f"{WHERE}.by", labels.by, f"no such mixture: of sft.mixture sft.search tries {', '.join(tried)}")
    if not labelled_tasks(r):
        advice = "is empty, and no task of sft.mixture has problems that judge their answers; name those with one right answer"
        yield Problem(f"{WHERE}.tasks", None, advice)
    for number, name in enumerate(labels.tasks):
        where = f"{WHERE}.tasks[{number}]"
        if name not in r.sft.mixture:
            yield Problem(where, name, f"no such task in sft.mixture, which has {', '.join(r.sft.mixture)}")
        elif (task := r.sft.tasks.get(name)) is None:
            continue  # the mixture is told so already
        elif task.messages:
            yield Problem(
                where, name, "nothing can check its answers: a conversation of its own may answer by a call; leave it out"
            )
        elif task.extract is Extract.FUNCTIONS:
            yield Problem(where, name, "nothing can check its answers: a function may be described in other words; leave it out")
    if labels.by in tried and (unlearnt := [n for n in labelled_tasks(r) if n in r.sft.mixture and n not in tried[labels.by]]):
        able = [name for name, mixture in tried.items() if all(task in mixture for task in labelled_tasks(r))]
        advice = f"has not learnt {', '.join(unlearnt)}; use {' or '.join(able) or 'a mixture that has'}"
        yield Problem(f"{WHERE}.by", labels.by, advice)


def _levels(r: Recipe) -> Iterator[Problem]:
    labels = r.sft.labels
    if labels.hard_up_to >= labels.easy_from:
        advice = f"a question would be hard and easy at once, with {WHERE}.easy_from={labels.easy_from:g}; lower it"
        yield Problem(f"{WHERE}.hard_up_to", labels.hard_up_to, advice)
    if labels.samples * labels.hard_up_to < 1:
        advice = f"one right answer of so many is more than {WHERE}.hard_up_to={labels.hard_up_to:g}, so that none is hard"
        yield Problem(f"{WHERE}.samples", labels.samples, f"{advice}; use at least {math.ceil(1 / labels.hard_up_to)}")
    if len(set(labels.drop)) == len(Difficulty):
        yield Problem(f"{WHERE}.drop", [level.value for level in labels.drop], "is every level; leave one to learn from")
    for name, times in labels.repeats.items():
        where = f"{WHERE}.repeats.{name}"
        if name not in list(Difficulty):
            yield Problem(where, times, f"no such level; there are {', '.join(Difficulty)}")
        elif times < 2:
            yield Problem(where, times, f"a question is learnt once anyway; use 2 or more, or {WHERE}.drop to leave it out")
        elif Difficulty(name) in labels.drop:
            yield Problem(where, times, f"what {WHERE}.drop leaves out is not repeated; choose one of both")


def _is_generated(r: Recipe, name: str) -> bool:
    """Whether the generator that made a task's problems says which answers are right."""
    task = r.sft.tasks.get(name)
    return task is not None and task.source in r.data.sources and r.data.sources[task.source].kind is SourceKind.REASONING_GYM
