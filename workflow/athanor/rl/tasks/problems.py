"""Problems of sound tasks: made once in the sandbox, no question twice, some of each task never learnt from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from athanor.rewards.sandbox.box import Outcome, Sandbox
from athanor.rl.tasks.audit import GENERATE_SECONDS, TASK_ITEMS
from athanor.rl.tasks.generator import MODULES, Generator, find_generator
from athanor.rl.tasks.task import Task
from athanor.rl.tasks.verifying import Verifier

SECONDS_EACH = GENERATE_SECONDS / TASK_ITEMS  # a problem, as in the audit
LEAST = 2  # problems of a task: one to learn from, one that is held out
BATCH = 16  # problems that one call makes: some are 0.1 MB, and what a call says is at most 4
MOST_DRAWN = 3  # times as many as are wanted: a task that has not enough by then has few different ones
_FIELDS = {"module", "generator", "task", "problem"}


@dataclass(frozen=True)
class Problem:
    """One question with the answer on record."""

    id: str  # `chain_sum(num_terms=3)#7`: its task and its number
    task: str
    generator: str  # as it is named
    module: str  # dotted, such as athanor.rl.tasks.gym: has the verifier
    question: str
    answer: str
    entry: dict[str, Any]  # what the verifier wants


@dataclass(frozen=True)
class Recorded:
    """What a conversation's entry says of the problem that it holds."""

    generator: Generator
    task: str
    problem: dict[str, Any]


@dataclass
class Made:
    """Problems of one task, and what became of the others that were drawn."""

    task: str
    problems: list[Problem] = field(default_factory=list)
    asked_before: int = 0  # whose question another problem asks
    wrong: int = 0  # whose answer on record its verifier does not call right
    unmade: int = 0  # that could not be made, or not in time
    trouble: str = ""  # why the last of these


def entry_of(problem: Problem) -> dict[str, Any]:
    """What is kept beside a conversation, so that its answers can be judged."""
    return {"module": problem.module, "generator": problem.generator, "task": problem.task, "problem": problem.entry}


def read_entry(entry: Mapping[str, Any], folder: Path | None = None) -> Recorded | None:
    """What `entry_of` wrote; None for any other entry. `folder` is where relative paths of one's own generators begin.

    `Verifier.judge(recorded.generator.module, recorded.generator.address, answers, [recorded.problem, …])` judges, in a sandbox
    of `sandbox_of(generators)`. Raises ValueError where the module is none that makes problems.
    """
    if entry.keys() != _FIELDS:
        return None
    if entry["module"] not in MODULES:
        raise ValueError(f"{entry['task']}: no module {entry['module']} makes problems; there is {', '.join(MODULES)}")
    return Recorded(find_generator(entry["generator"], folder), entry["task"], entry["problem"])


def make_problems(sandbox: Sandbox, generator: Generator, task: Task, wanted: int, seed: int, asked: set[str]) -> Made:
    """At most `wanted` problems that ask nothing of `asked`, to which their questions are added.

    They are drawn by number from 0 on; each has an answer on record that its verifier calls right.
    """
    made, verifier, drawn = Made(task.name), Verifier(sandbox), 0
    while (missing := wanted - len(made.problems)) and drawn < MOST_DRAWN * wanted:
        numbers = range(drawn, min(drawn + BATCH, drawn + missing + max(4, missing // 4), MOST_DRAWN * wanted))
        found = list(_drawn(sandbox, generator, task, seed, numbers, made))
        if not found:
            break
        new = list(_new(found, asked, made))
        verdicts = verifier.judge(generator.module, generator.address, [p.answer for p in new], [p.entry for p in new])
        right = [problem for problem, verdict in zip(new, verdicts, strict=True) if verdict.right]
        made.wrong += len(new) - len(right)
        made.problems += right[:missing]
        asked |= {_asked_by(problem) for problem in right[:missing]}
        drawn = numbers.stop
    return made


def _drawn(sandbox: Sandbox, generator: Generator, task: Task, seed: int, numbers: range, made: Made) -> Iterator[Problem]:
    """The problems of these numbers. Where one of them cannot be made, the others do not pay for it."""

    def draw(some: range) -> Outcome:
        wanted = (generator.address, dict(task.levels), seed, len(some), some.start)
        return sandbox.call(generator.module, "generate", *wanted, seconds=SECONDS_EACH * len(some))

    together = draw(numbers)
    for number in numbers:
        came = together if together.came else draw(range(number, number + 1))
        if not came.came:
            made.unmade, made.trouble = made.unmade + 1, came.error or came.ended
            continue
        entry = came.value[number - numbers.start if came is together else 0]
        answer = "" if entry["answer"] is None else str(entry["answer"])
        facts = (task.name, generator.name, generator.module, str(entry["question"]).strip(), answer.strip(), entry)
        yield Problem(f"{task.name}#{number}", *facts)


def distinct(made: Iterable[Made], asked: set[str]) -> Iterator[Made]:
    """The same tasks without problems that ask what is in `asked`, to which their questions are added."""
    for one in made:
        left = replace(one, problems=[])
        left.problems = list(_new(one.problems, asked, left))
        asked |= {_asked_by(problem) for problem in left.problems}
        yield left


def hold_out(problems: Sequence[Problem], share: float) -> frozenset[str]:
    """Ids of those of one task that are never learnt from: about `share` of them, at least one, and at least one is left.

    A hash of what they are about decides, so that a problem is held out whatever its seed, number and task; and its own entry,
    where that says that it is. Raises ValueError for fewer than two.
    """
    if len(problems) < LEAST:
        raise ValueError(f"{len(problems)} problems cannot be divided; {LEAST} can")
    places = {problem.id: 0 if problem.entry.get("held_out") else _hashed(subject(problem), b"held-out") for problem in problems}
    ordered = sorted(problems, key=lambda problem: places[problem.id])
    below = sum(place < share * 2**64 for place in places.values())
    return frozenset(problem.id for problem in ordered[: min(max(1, below), len(ordered) - 1)])


def hold_out_everywhere(tasks: Sequence[Sequence[Problem]], share: float) -> list[frozenset[str]]:
    """Of each task what is held out: what `hold_out` says of it, and what another task holds out the subject of.

    So that no task teaches what another one is to be tried with. All of a task may be held out then; none of one with fewer than
    LEAST problems is.
    """
    alone = [hold_out(problems, share) if len(problems) >= LEAST else frozenset[str]() for problems in tasks]
    aside = {
        subject(problem)
        for problems, ids in zip(tasks, alone, strict=True)
        for problem in problems
        if problem.id in ids or problem.entry.get("held_out")
    }
    return [frozenset(problem.id for problem in problems if subject(problem) in aside) for problems in tasks]


def subject(problem: Problem) -> str:
    """What a problem is about: what its entry says, such as a molecule, or what it asks."""
    return str(problem.entry.get("subject") or _asked_by(problem))


def mixed(problems: Iterable[Problem]) -> list[Problem]:
    """By a hash of their ids: the first of them are of all generators."""
    return sorted(problems, key=lambda problem: _hashed(problem.id, b"order"))


def _new(problems: Iterable[Problem], asked: set[str], made: Made) -> Iterator[Problem]:
    """Those that ask what is not in `asked`, each question once; the others are counted."""
    seen = set(asked)
    for problem in problems:
        if (question := _asked_by(problem)) in seen:
            made.asked_before += 1
        else:
            seen.add(question)
            yield problem


def _asked_by(problem: Problem) -> str:
    """By which two questions are the same: spacing aside."""
    return " ".join(problem.question.split())


def _hashed(text: str, purpose: bytes) -> int:
    """From 0 to 2^64."""
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "little")
