"""reasoning-gym's generators at the levels of their own curricula. All functions run in the sandbox, on what JSON can hold."""

import json
from collections.abc import Mapping, Sequence
from decimal import localcontext
from typing import Any

Entry = dict[str, Any]
# Whose verifiers hand an answer to `eval`, `exec` or sympy's parser (docs/tasks.md has what the audit found).
RUNS_ANSWERS = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)


def generators() -> list[str]:
    """All that the package has, but the one that mixes others."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


def attributes(generator: str) -> dict[str, int]:
    """How many levels each attribute of the generator's curriculum has; none where there is no curriculum."""
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(generator):
        return {}
    return {name: len(attribute.levels) for name, attribute in create_curriculum(generator).attributes.items()}


def generate(generator: str, levels: Mapping[str, int], seed: int, count: int, first: int = 0) -> list[Entry]:
    """`count` problems at these levels from number `first` on, as they are written down. Raises what the package does.

    Each follows from (generator, levels, seed, its number); those of `acre` also from how many are made.
    """
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode
    from reasoning_gym.factory import DATASETS, create_curriculum

    dataset, config_of = DATASETS[generator]
    defaults = {"seed": seed, "size": first + count}
    if levels:
        curriculum = create_curriculum(generator)
        for name, level in levels.items():
            curriculum.set_attr_level(name, level)
        # Of each range the part that this level adds: a task is as hard as its name says, and no easier one is in it.
        context = DefaultCurriculumContext(RangeAttributeMode.UPPER_BOUND)
        config = curriculum.generate_configuration(defaults, context)
    else:
        config = config_of(**defaults)
    if hasattr(config, "validate"):
        config.validate()
    with localcontext():  # some generators set the precision of decimals, and leave it so
        problems = dataset(config=config)
        return [json.loads(json.dumps(problems[number])) for number in range(first, first + count)]


def score(generator: str, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """What the generator's own verifier gives each answer to the entry of its place; an exception's name where it raised one."""
    from reasoning_gym.factory import get_score_answer_fn

    verifier = get_score_answer_fn(generator)
    found: list[float | str] = []
    for answer, entry in zip(answers, entries, strict=True):
        try:
            with localcontext():
                found.append(float(verifier(answer, entry)))
        except Exception as error:  # what a verifier makes of prose is anybody's guess
            found.append(type(error).__name__)
    return found
