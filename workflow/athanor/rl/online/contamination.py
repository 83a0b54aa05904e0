"""Prompts that an evaluation suite asks as well, by runs of words that both have."""

import re
from collections.abc import Iterable

WORD = re.compile(r"\w+")
LEAST = 5  # words of a question that is looked for as a whole


class Suites:
    """The questions of evaluation suites."""

    def __init__(self, questions: Iterable[str], ngram: int) -> None:
        """`ngram` words in a row are what a prompt may not share; of a shorter question all of them, at least LEAST."""
        self._runs: dict[int, set[tuple[str, ...]]] = {}
        for question in questions:
            words = _words(question)
            length = min(ngram, len(words))
            if length >= min(ngram, LEAST):
                self._runs.setdefault(length, set()).update(_runs(words, length))

    def share(self, text: str) -> bool:
        """Whether `text` has a run of words of theirs."""
        words = _words(text)
        return any(run in known for length, known in self._runs.items() for run in _runs(words, length))


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _runs(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[at : at + length]) for at in range(len(words) - length + 1))
