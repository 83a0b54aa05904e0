"""Answers to right or wrong, whoever asked: by the answer on record, by a source's generator, or by a task of the registry.

Verifiers of the registry run in the sandbox, one worker a process and module, or file of one's own generators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from athanor.artifacts.run import StageError
from athanor.recipe.loading import project_folder
from athanor.rewards.verifiers import THOUGHTS, Judge
from athanor.rl.tasks.generator import Generator, sandbox_of
from athanor.rl.tasks.problems import Recorded, read_entry
from athanor.rl.tasks.verifying import Verdict, Verifier


@dataclass(frozen=True)
class Said:
    """A whole answer, what is on record, and what a verifier wants: empty, and the record alone is right."""

    text: str
    expected: str
    entry: Mapping[str, Any]


def generator_of(entry: Mapping[str, Any]) -> str:
    """The name of the generator that made a problem of the registry."""
    return str(entry["generator"])


class Judges:
    """Everything that tells right from wrong; what is not asked for is not started."""

    def __init__(self) -> None:
        self._plain = Judge()
        self._verifiers: dict[str | Path, Verifier] = {}

    def __enter__(self) -> "Judges":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def broken(self) -> int:
        """Answers that no verifier had a verdict for; they are wrong."""
        return self._plain.broken + sum(sum(verifier.troubles.values()) for verifier in self._verifiers.values())

    def judge(self, answers: Sequence[Said]) -> list[Verdict]:
        """A verdict for each. Raises StageError where one would run what a model wrote, and nothing shuts that off here."""
        found, folder = [Verdict(False)] * len(answers), project_folder()
        grouped: dict[Generator, list[tuple[int, Recorded]]] = {}
        for place, said in enumerate(answers):
            recorded = read_entry(said.entry, folder)
            if recorded is None:
                found[place] = Verdict(self._plain.is_right(said.text, said.expected, said.entry))
            else:
                grouped.setdefault(recorded.generator, []).append((place, recorded))
        for generator in sorted(grouped, key=lambda one: one.name):
            places = [place for place, _ in grouped[generator]]
            texts = [THOUGHTS.sub(" ", answers[place].text).strip() for place in places]
            problems = [recorded.problem for _, recorded in grouped[generator]]
            verdicts = self._verifier(generator).judge(generator.module, generator.address, texts, problems)
            for place, verdict in zip(places, verdicts, strict=True):
                found[place] = verdict
        return found

    def close(self) -> None:
        """End the workers."""
        for verifier in self._verifiers.values():
            verifier.sandbox.close()

    def _verifier(self, generator: Generator) -> Verifier:
        known = generator.file or generator.module
        if known not in self._verifiers:
            self._verifiers[known] = Verifier(sandbox_of([generator]))
        verifier = self._verifiers[known]
        if generator.needs_walls and not verifier.sandbox.isolation.complete:
            raise StageError(
                f"{generator.name}: {generator.needs_walls}, and this node has no sandbox ({verifier.sandbox.isolation.why}); "
                "run this stage where athanor doctor finds one, or leave the generator out of online.problems.generators"
            )
        return verifier
