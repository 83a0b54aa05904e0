"""Programs to be written: a question says what a program reads and prints, its verifier runs the answer on inputs of its own.

Functions as in gym.py, all in the sandbox. An answer runs in an interpreter beside the verifier, which alone compares what
it printed: a program can end, hang or kill, and says nothing about its own verdict.
"""

import os
import re
import resource
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from random import Random
from typing import Any

Entry = dict[str, Any]
INPUTS = 8  # that a program is tried on
DIFFERENT = 3  # outputs among these at least: else a program that reads nothing might do
SECONDS, CPU_SECONDS = 3.0, 1  # for all of them by the clock; for each by its processor
PRINTED = 2**16  # bytes that are looked at
_FENCED = re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL)
_LEVELS = {"steps": (1, 2, 3, 4), "ends": (0, 1)}  # operations before the last; 0: prints one number, 1: also lists
_WORDS = ("ion", "atom", "ester", "quark", "enzyme", "plasma", "orbital", "polymer", "neutron", "catalyst", "isotope")


@dataclass(frozen=True)
class Operation:
    """In words, and as Python over `values`; `{n}` is a number that is drawn."""

    words: str
    python: str


@dataclass(frozen=True)
class Kind:
    """What a program reads on one line, how it is read, and what may be done with it."""

    reads: str
    read: str
    steps: tuple[Operation, ...]
    numbers: tuple[Operation, ...]  # last operations that leave a number
    lists: tuple[Operation, ...]  # that leave several values

    def line(self, random: Random) -> str:
        """An input."""
        if "integers" in self.reads:
            return " ".join(str(random.randint(-20, 50)) for _ in range(random.randint(1, 12)))
        return " ".join(random.choices(_WORDS, k=random.randint(1, 10)))


_SHARED = (
    Operation("reverse their order", "values[::-1]"),
    Operation("drop the first", "values[1:]"),
    Operation("keep every second, from the first on", "values[::2]"),
    Operation("keep each once, where it comes first", "list(dict.fromkeys(values))"),
)
KINDS = {
    "list_program": Kind(
        "integers, separated by spaces",
        "[int(word) for word in input().split()]",
        (
            *_SHARED,
            Operation("keep those that are even", "[v for v in values if v % 2 == 0]"),
            Operation("keep those above {n}", "[v for v in values if v > {n}]"),
            Operation("add {n} to each", "[v + {n} for v in values]"),
            Operation("multiply each by {n}", "[v * {n} for v in values]"),
            Operation("replace each by its absolute value", "[abs(v) for v in values]"),
            Operation("sort them, smallest first", "sorted(values)"),
        ),
        (
            Operation("print their sum", "sum(values)"),
            Operation("print how many they are", "len(values)"),
            Operation("print the largest, or 0 if none is left", "max(values, default=0)"),
            Operation("print the sum of their squares", "sum(v * v for v in values)"),
        ),
        (Operation("print them, separated by spaces", "' '.join(map(str, values))"),),
    ),
    "word_program": Kind(
        "words, separated by spaces",
        "input().split()",
        (
            *_SHARED,
            Operation("keep those of more than {n} letters", "[v for v in values if len(v) > {n}]"),
            Operation("write each backwards", "[v[::-1] for v in values]"),
            Operation("write each in capitals", "[v.upper() for v in values]"),
            Operation("cut each to its first {n} letters", "[v[:{n}] for v in values]"),
            Operation("sort them as Python sorts strings", "sorted(values)"),
        ),
        (
            Operation("print how many they are", "len(values)"),
            Operation("print how many letters they have together", "sum(map(len, values))"),
            Operation("print how many different ones they are", "len(set(values))"),
        ),
        (
            Operation("print them, separated by spaces", "' '.join(values)"),
            Operation("print their first letters as one word", "''.join(v[0] for v in values)"),
        ),
    ),
}


def attributes(generator: str) -> dict[str, int]:
    """How many levels each attribute has; they are the same for all."""
    return {name: len(values) for name, values in _LEVELS.items() if generator in KINDS}


def generate(generator: str, levels: Mapping[str, int], seed: int, count: int, first: int = 0) -> list[Entry]:
    """`count` problems at these levels, or at the first of all, from number `first` on.

    `answer` is a program, `case` has inputs and what it prints.
    """
    steps, ends = (values[levels.get(name, 0)] for name, values in _LEVELS.items())
    randoms = (Random(f"{generator}:{steps}:{ends}:{seed}:{number}") for number in range(first, first + count))
    return [_problem(KINDS[generator], random, steps, ends) for random in randoms]


def _problem(kind: Kind, random: Random, steps: int, ends: int) -> Entry:
    number = random.randint(2, 5)
    chosen = [*random.sample(kind.steps, steps), random.choice(kind.numbers + (kind.lists if ends else ()))]
    words = [operation.words.format(n=number) for operation in chosen]
    *changes, last = [operation.python.replace("{n}", str(number)) for operation in chosen]
    program = "\n".join([f"values = {kind.read}", *(f"values = {change}" for change in changes), f"print({last})"])
    case = [[line, _printed(program, line)] for line in (kind.line(random) for _ in range(INPUTS))]
    if len({printed for _, printed in case}) < DIFFERENT:
        return _problem(kind, random, steps, ends)
    question = (
        f"Write a Python program. It reads one line of {kind.reads}. With these values, in this order: {'; '.join(words)}. "
        "Answer with the program alone; it has the standard library."
    )
    return {"question": question, "answer": program, "case": case}


def _printed(program: str, line: str) -> str:
    """What a program of our own prints: here, since no load of the machine may change a problem."""
    with redirect_stdout(StringIO()) as printed:
        exec(program, {"input": lambda: line})
    return printed.getvalue().strip()


def score(generator: str, answers: Sequence[str], entries: Sequence[Entry]) -> list[float | str]:
    """1.0 for a program that prints what is asked on every input and ends by itself. It may stand in a fenced block."""
    return [_score(answer, entry["case"]) for answer, entry in zip(answers, entries, strict=True)]


def _score(answer: str, case: Sequence[tuple[str, str]]) -> float:
    fenced = _FENCED.search(answer)
    program, deadline = fenced[1] if fenced else answer, time.monotonic() + SECONDS
    return float(all((printed := run(program, line, deadline)) is not None and printed == wanted for line, wanted in case))


def run(program: str, line: str, deadline: float) -> str | None:
    """What the program prints for this input, without spaces around; None where it fails, or has not ended by then.

    In an interpreter of its own, which has nothing in memory of what is expected.
    """
    command = [sys.executable, "-I", "-S", "-B", "-c", program]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=_limit_itself
        )
    except (OSError, ValueError):  # too long for a command, or a null in it
        return None
    with process:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.close()
        printed, ended = b"", False
        while (
            len(printed) < PRINTED
            and not ended
            and select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
        ):
            part = os.read(process.stdout.fileno(), PRINTED)
            printed, ended = printed + part, not part
        if not ended:
            process.kill()
    return printed.decode(errors="replace").strip() if ended and process.returncode == 0 else None


def _limit_itself() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
