"""A round on disk: every answer with the weights it came from, what it earned, and where it is learnt from; and the ledger.

`rounds/00012.jsonl.gz` is there whole or not at all. `ledger.jsonl` has a line a step with the answers it learnt from, so that of
a run that was killed and went on, as of any, it can be said that each was learnt from once.
"""

import gzip
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from athanor.artifacts.run import StageError

ROUNDS, LEDGER = "rounds", "ledger.jsonl"
SCHEMA_VERSION = 1
SEEN_SECONDS = 60.0  # until a shared file system shows every node what one has written
OPEN = "open"  # beside an engine's reasons to finish: it goes on in the next round


@dataclass(frozen=True)
class Answered:
    """One answer of a round. Its id, SLOT.NUMBER, is its own within the round."""

    slot: int  # of its prompt in the round
    number: int  # among the answers of its prompt
    prompt: str
    task: str
    family: str
    route: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]  # as the engine drew them
    finish: str
    text: str
    reward: float
    right: bool | None  # where a verifier judged
    trouble: str = ""  # why it had no verdict
    advantage: float | None = None  # None: its group teaches nothing
    old: tuple[float, ...] = ()  # log-probabilities under the round's first weights, by the trainer; of what is learnt from
    reference: tuple[float, ...] = ()  # under the start's
    chosen: tuple[bool, ...] = ()  # tokens that KL-Cov holds back
    spans: tuple[tuple[int, str], ...] = ()  # (tokens, sum of the weights that drew them), where answers go on over rounds

    @property
    def id(self) -> str:
        """`12.3`."""
        return f"{self.slot}.{self.number}"


@dataclass(frozen=True)
class Made:
    """A round: the sum of the weights that answered, how many rounds these were behind, and which answer next time."""

    number: int
    weights: str
    behind: int
    ahead: str  # the sum of the weights that answer the round after; empty where these are not decided yet
    answers: tuple[Answered, ...]
    watched: tuple[dict[str, Any], ...] = ()  # what the same held-out prompts are answered with
    metrics: dict[str, float] = field(default_factory=dict)
    moments: dict[str, list[float]] = field(default_factory=dict)  # of rewards, where a comparison keeps some
    asked: int = 0  # prompts that were asked up to here, where answers go on over rounds


def path_of(folder: Path, number: int) -> Path:
    """Of a round's file below a stage's `folder`."""
    return folder / ROUNDS / f"{number:05d}.jsonl.gz"


def write_round(folder: Path, made: Made) -> None:
    """Durably, and at once or not at all."""
    path = path_of(folder, made.number)
    path.parent.mkdir(exist_ok=True)
    head = {"schema_version": SCHEMA_VERSION, **{k: v for k, v in vars(made).items() if k not in ("answers", "asked")}}
    head |= {"asked": made.asked} if made.asked else {}
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for row in (head, *map(_row, made.answers)):
            file.write(json.dumps(row, ensure_ascii=False).encode(errors="surrogateescape") + b"\n")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_round(folder: Path, number: int) -> Made | None:
    """None where it is not made."""
    path = path_of(folder, number)
    if not path.is_file():
        return None
    with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape") as lines:
        head = json.loads(next(lines))
        rows = [json.loads(line) for line in lines]
    del head["schema_version"]
    tuples = ("tokens", "log_probs", "old", "reference", "chosen")
    answers = tuple(
        Answered(**{**row, **{name: tuple(row[name]) for name in tuples}, "spans": tuple(map(tuple, row.get("spans", ())))})
        for row in rows
    )
    return Made(**{**head, "watched": tuple(head["watched"]), "answers": answers})


def await_round(folder: Path, number: int) -> Made:
    """One that is made; on a shared file system another node's may be seen later. Raises StageError."""
    deadline = time.monotonic() + SEEN_SECONDS
    while (made := read_round(folder, number)) is None:
        if time.monotonic() > deadline:
            raise StageError(
                f"{path_of(folder, number)} is made and not to be seen, and the weights that answered it are behind; look at the "
                f"file system and bring it back, or delete {folder} and train anew"
            )
        time.sleep(0.2)
    return made


def _row(answer: Answered) -> dict[str, Any]:
    return {name: value for name, value in vars(answer).items() if name != "spans" or value}


def open_slots(answers: Iterable[Answered]) -> set[int]:
    """Those of whose answers one goes on."""
    return {answer.slot for answer in answers if answer.finish == OPEN}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """What was told of each round, in their order."""
    found: list[dict[str, float]] = []
    while (path := path_of(folder, len(found))).is_file():
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape") as lines:
            found.append(json.loads(next(lines))["metrics"])
    return found


def arrange(answers: Sequence[Answered], seed: int, number: int, steps: int) -> list[list[Answered | None]]:
    """A round's answers step by step, each as long: first those that are learnt from, then None for the others.

    The answers of a prompt fall to one step, end to end, so that a trainer may read their prompt once, and steps have as many
    as come out so, one prompt's more or less; but answers that fit nowhere whole, and all where there are more steps than
    prompts, are dealt one by one. Which step it is follows from the seed, the round and the prompt's slot. Raises ValueError
    where steps do not come out even.
    """
    if len(answers) % steps:
        raise ValueError(f"{len(answers)} answers do not cut into {steps} steps")

    def lot(slot: int) -> bytes:
        return blake2b(f"{seed}:{number}:{slot}".encode(), digest_size=16).digest()

    groups: dict[int, list[Answered]] = {}
    for answer in sorted(answers, key=lambda answer: (lot(answer.slot), answer.number)):
        if answer.advantage is not None:
            groups.setdefault(answer.slot, []).append(answer)
    size = len(answers) // steps
    dealt: list[list[Answered | None]] = [[] for _ in range(steps)]
    cut: list[Answered] = []
    for group in groups.values():
        shortest = min(dealt, key=len)
        if len(groups) >= steps and len(shortest) + len(group) <= size:
            shortest.extend(group)
        else:
            cut.extend(group)
    for answer in cut:
        min(dealt, key=len).append(answer)
    return [some + [None] * (size - len(some)) for some in dealt]


class Ledger:
    """What was learnt from, step by step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def resume(self, step: int) -> None:
        """Forget the steps behind `step`, which are done again. A kill may have cut the last line."""
        rows = [row for row in read_ledger(self._path) if row["step"] <= step]
        if [row["step"] for row in rows] != list(range(1, step + 1)):
            raise StageError(f"{self._path} lacks steps up to {step}, where the checkpoint goes on; delete {self._path.parent}")
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        os.replace(partial, self._path)

    def add(self, step: int, number: int, answers: Iterable[Answered], *, left_out: bool) -> None:
        """A step of round `number` learnt from them, or was left out for its gradient."""
        row = {"step": step, "round": number, "answers": [answer.id for answer in answers], "left_out": left_out}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def secure(self) -> None:
        """Bring it to the disk: a checkpoint is never ahead of it."""
        if self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All whole lines, or none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def settle_accounts(ledger: Sequence[Mapping[str, Any]], rounds: Sequence[Made]) -> dict[str, int]:
    """That each answer worth learning from was learnt from once, and how many there were. Raises StageError.

    An answer that goes on over rounds is one of the round in which its group has ended.
    """
    learnt: dict[tuple[int, str], int] = {}
    for row in ledger:
        for answer in row["answers"]:
            learnt[row["round"], answer] = learnt.get((row["round"], answer), 0) + 1
    wanted = {(made.number, answer.id) for made in rounds for answer in made.answers if answer.advantage is not None}
    twice = [key for key, count in learnt.items() if count > 1]
    if twice or learnt.keys() != wanted:
        raise StageError(
            f"the ledger and the rounds differ: {len(twice)} answers learnt from twice, {len(wanted - learnt.keys())} lost, "
            f"{len(learnt.keys() - wanted)} of no round; train this stage anew, and report it"
        )
    open_in = [open_slots(made.answers) for made in rounds]
    answers = sum(answer.slot not in slots for made, slots in zip(rounds, open_in, strict=True) for answer in made.answers)
    left_out = sum(row["left_out"] for row in ledger)
    found = {"rounds": len(rounds), "answers": answers, "learnt_from": len(wanted), "steps_left_out": left_out}
    return found | ({"groups_open": len(open_in[-1])} if rounds and rounds[-1].asked else {})
