"""Answers to right or wrong, whoever asked: by the answer on record, by a source's generator, or by a task of the registry.

Verifiers of the registry run in the sandbox, one worker a process and file of generators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from athanor.rewards.sandbox.box import Sandbox
from athanor.rewards.sandbox.isolation import find_isolation
from athanor.rewards.verifiers import THOUGHTS, Judge
from athanor.rl.tasks import bootcamp, gym
from athanor.rl.tasks.verifying import Verdict, Verifier


@dataclass(frozen=True)
class Said:
    """A whole answer, what is on record, and what a verifier wants: empty, and the record alone is right."""

    text: str
    expected: str
    entry: Mapping[str, Any]


def generator_of(entry: Mapping[str, Any]) -> str:
    """The generator that made a problem of the registry."""
    return str(entry["generator"])


class Judges:
    """Everything that tells right from wrong; what is not asked for is not started."""

    def __init__(self) -> None:
        self._plain = Judge()
        self._verifiers: dict[str, Verifier] = {}

    def __enter__(self) -> "Judges":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def broken(self) -> int:
        """Answers that no verifier had a verdict for; they are wrong."""
        return self._plain.broken + sum(sum(verifier.troubles.values()) for verifier in self._verifiers.values())

    def judge(self, answers: Sequence[Said]) -> list[Verdict]:
        """A verdict for each."""
        found: list[Verdict] = [Verdict(False)] * len(answers)
        grouped: dict[tuple[str, str], list[int]] = {}
        for place, said in enumerate(answers):
            if "problem" in said.entry:
                grouped.setdefault((said.entry["module"], said.entry["generator"]), []).append(place)
            else:
                found[place] = Verdict(self._plain.is_right(said.text, said.expected, said.entry))
        for (module, generator), places in sorted(grouped.items()):
            texts = [THOUGHTS.sub(" ", answers[place].text).strip() for place in places]
            entries = [answers[place].entry["problem"] for place in places]
            for place, verdict in zip(
                places, self._verifier(module, generator).judge(module, generator, texts, entries), strict=True
            ):
                found[place] = verdict
        return found

    def close(self) -> None:
        """End the workers."""
        for verifier in self._verifiers.values():
            verifier.sandbox.close()

    def _verifier(self, module: str, generator: str) -> Verifier:
        """Of the worker that has the module; a file of one's own generators has one of its own, which sees the file."""
        path = generator.rpartition(":")[0] if module == bootcamp.__name__ else ""
        if (known := path or module) not in self._verifiers:
            modules = [module, "reasoning_gym"] if module == gym.__name__ else [module]
            isolation = find_isolation(Path(path)) if path else find_isolation()
            self._verifiers[known] = Verifier(Sandbox(modules, isolation))
        return self._verifiers[known]
