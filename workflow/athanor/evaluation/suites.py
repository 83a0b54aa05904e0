"""Runs the recipe's suites one after the other, each kept as soon as it is finished, so that a restart repeats none."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.evaluation.harness import Evaluator
from athanor.evaluation.held_out import held_out_tasks
from athanor.evaluation.mmlu import mmlu_dev_task
from athanor.evaluation.molecules import DOMAIN, compounds, leaked, molecule_choice_task
from athanor.evaluation.scores import SCORES_FILE, Score, write_scores
from athanor.evaluation.tasks import Document, Task, write_readme, write_task
from athanor.recipe.schema.choices import Suite
from athanor.recipe.schema.recipe import Evaluate

SUITES_FOLDER = "suites"
FINISHED_FOLDER = "finished"  # a restart's memory; not part of the result


@dataclass(frozen=True)
class Corpus:
    """A source's documents, read anew at each call."""

    domain: str
    held_out: Callable[[], Iterable[Document]]
    training: Callable[[], Iterable[Document]]


@dataclass(frozen=True)
class Finished:
    """A finished suite: its scores, and counts of what was asked and left out."""

    scores: tuple[Score, ...]
    counts: Mapping[str, int]


def suite_files(folder: Path) -> tuple[str, ...]:
    """The files of `suites/` below `folder`: not Python's cache of the loader that lm-eval leaves there."""
    return tuple(sorted(f"{SUITES_FOLDER}/{path.name}" for path in (folder / SUITES_FOLDER).iterdir() if path.is_file()))


def evaluate(
    model: Path,
    folder: Path,
    corpora: Mapping[str, Corpus],
    settings: Evaluate,
    max_sequence_length: int,
    on_batch: Callable[[], None],
) -> Finished:
    """Ask the Hugging Face folder `model` all suites; write `scores.json` and `suites/` below `folder`.

    `on_batch` is called before every forward pass and may raise to stop: suites that are through stay so.
    """
    evaluator: Evaluator | None = None
    finished: list[Finished] = []
    for suite in settings.suites:
        kept = folder / FINISHED_FOLDER / f"{suite}.json"
        if not kept.is_file():
            tasks = build_tasks(suite, corpora, settings, max_sequence_length)
            for task in tasks:
                write_task(task, folder / SUITES_FOLDER)
            evaluator = evaluator or Evaluator(model, settings.batch_size, on_batch)
            _keep(kept, evaluator.run(tasks, folder / SUITES_FOLDER), tasks)
        finished.append(_read(kept))
    scores = tuple(score for suite in finished for score in suite.scores)
    write_readme(folder / SUITES_FOLDER, {score.task for score in scores})
    write_scores(folder / SCORES_FILE, scores)
    return Finished(scores, {name: count for suite in finished for name, count in suite.counts.items()})


def build_tasks(suite: Suite, corpora: Mapping[str, Corpus], settings: Evaluate, max_sequence_length: int) -> list[Task]:
    """The tasks of one suite: a pure function of the documents and the recipe. Raises SuiteError."""
    match suite:
        case Suite.HELD_OUT_PERPLEXITY:
            return held_out_tasks(_by_domain(corpora), settings.limit, settings.seed, max_sequence_length)
        case Suite.MMLU_DEV:
            return [mmlu_dev_task(settings.limit, settings.seed)]
        case Suite.MOLECULE_CHOICE:
            candidates = compounds(d for c in corpora.values() if c.domain == DOMAIN for d in c.held_out())
            leaks = leaked(candidates, (d for c in corpora.values() for d in c.training())) if candidates else set()
            return [molecule_choice_task(candidates, leaks, settings.limit, settings.seed)]


def _by_domain(corpora: Mapping[str, Corpus]) -> dict[str, Iterator[tuple[str, Document]]]:
    def documents(domain: str) -> Iterator[tuple[str, Document]]:
        return ((name, d) for name, c in sorted(corpora.items()) if c.domain == domain for d in c.held_out())

    return {domain: documents(domain) for domain in {corpus.domain for corpus in corpora.values()}}


def _keep(path: Path, scores: Sequence[Score], tasks: Sequence[Task]) -> None:
    counts = {f"{task.name}.{name}": count for task in tasks for name, count in task.counts.items()}
    write_json(path, {"scores": [asdict(score) for score in scores], "counts": counts})


def _read(path: Path) -> Finished:
    kept = json.loads(path.read_text())
    return Finished(tuple(map(Score.from_row, kept["scores"])), kept["counts"])
