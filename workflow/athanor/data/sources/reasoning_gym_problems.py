"""Problems of a reasoning-gym generator, whose answers its own verifier can tell right from wrong."""

from collections.abc import Iterator
from decimal import localcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from athanor.artifacts.run import StageError
from athanor.data.formats.record import Record
from athanor.recipe.generators import PACKAGE
from athanor.recipe.schema.recipe import Source

ENTRY = "entry"  # the field with all that the verifier wants


def read_problems(source: Source) -> Iterator[Record]:
    """`source.items` problems in the generator's order: fields `question`, `answer`, the names of its metadata, and `entry`.

    Raises StageError where the environment has another version of the package than the source names, since that might generate
    other problems, and where the generator does not take its options.
    """
    problems = open_generator(source.package, source.version, source.items, source.seed, source.options)
    for number in range(source.items):
        with localcontext():  # some generators set the precision of decimals, and leave it so
            entry: dict[str, Any] = problems[number]
        metadata = {str(name): value for name, value in entry["metadata"].items()}
        fields = {**metadata, "question": entry["question"].strip(), "answer": str(entry["answer"]).strip(), ENTRY: entry}
        yield Record(f"{source.package}:{source.seed}:{number}", fields)


def open_generator(name: str, wanted: str, size: int, seed: int, options: dict[str, Any]) -> Any:
    """The generator as reasoning-gym makes it: a sequence of entries, with `score_answer`."""
    import reasoning_gym  # takes 2 s, and only this kind needs it

    found = installed_version()
    if wanted != found:
        raise StageError(f"{name}: the source is of {PACKAGE} {wanted}, and this environment has {found}; set version: {found}")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise StageError(f"{PACKAGE} {name}: options {options} are refused: {error or type(error).__name__}") from error


def installed_version() -> str:
    """Of the package, in this environment. Raises StageError where there is none."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise StageError(f"kind reasoning_gym needs {PACKAGE}, which is not installed; make install") from error
