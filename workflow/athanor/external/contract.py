"""The file that says what another trainer is to learn, and the lines in which it tells how far it is. Standard library only."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from athanor.artifacts.files import write_json

CONTRACT = 1  # raised when a trainer would have to change
METRICS_FILE = "metrics.jsonl"
SAVED = 75  # EX_TEMPFAIL: the exit code of a trainer that has saved and wants to be started again


class ContractError(Exception):
    """A handover, or a line of a trainer's metrics, that cannot be read: which, and what is wrong with it."""


@dataclass(frozen=True)
class Given:
    """A folder or file that is read: where it is, and the fingerprint of the artifact it is from."""

    path: str
    fingerprint: str


@dataclass(frozen=True)
class Budget:
    """What is to be learnt from: tokens, and of online RL answers, which count `sequence_length` tokens each."""

    tokens: int
    answers: int = 0


@dataclass(frozen=True)
class Asked:
    """How a campaign asks: weights of tasks, prompts a round, answers a prompt, tokens of an answer alone and with its prompt."""

    mixture: Mapping[str, float]
    prompts: int
    samples: int
    max_new_tokens: int
    sequence_length: int


@dataclass(frozen=True)
class Corpus:
    """What pretraining reads: weights of sources, windows of `sequence_length` tokens, and the tokens.

    Of each source the folders `shards`, in their order, and `held_out`, which is not to be trained on: each has `tokens.bin` and
    `tokens.idx`, which Megatron-Core's IndexedDataset reads. `step` and `tokens` were learnt before: lines count on from there.
    """

    mixture: Mapping[str, float]
    sequence_length: int
    shards: Mapping[str, Sequence[str]]
    held_out: Mapping[str, str]
    step: int
    tokens: int


@dataclass(frozen=True)
class Stop:
    """A stop is announced by `signal`, once, to the program alone; SIGKILL follows after `grace_seconds`.

    A program that has saved and wants to be started again exits with `exit_code`.
    """

    signal: str
    grace_seconds: float
    exit_code: int


@dataclass(frozen=True)
class Handover:
    """What another trainer is told; all paths are absolute."""

    contract: int
    stage: str  # online/model, pretrain/400K
    fingerprint: str
    attempt: int  # from 1
    inputs: Mapping[str, Given]  # start: a Hugging Face folder; online: pool, watched: prompts, gzipped JSON lines
    seed: int
    budget: Budget
    settings: Mapping[str, Any]
    checkpoints: str  # a folder that outlives attempts, for what the trainer wants to go on from
    roll_back: bool  # go on from before the newest of these
    output: str  # an empty folder: an ordinary Hugging Face folder when the program exits with 0
    metrics: str  # a file that is appended to: {"step": 3, "tokens": 6144, NAME: NUMBER …} a line
    stop: Stop
    asked: Asked | None = None  # of online RL
    corpus: Corpus | None = None  # of pretraining

    def write(self, path: Path) -> None:
        """As JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Handover":
        """As `write` wrote it. Raises ContractError."""
        try:
            data = json.loads(path.read_text())
            if data["contract"] != CONTRACT:
                raise ContractError(f"{path} has contract {data['contract']}, this program knows {CONTRACT}")
            kinds = {"budget": Budget, "asked": Asked, "corpus": Corpus, "stop": Stop}
            inputs = {name: Given(**given) for name, given in data["inputs"].items()}
            parts = {name: kind(**data[name]) for name, kind in kinds.items() if data.get(name)}
            return cls(**{**data, "inputs": inputs, **parts})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ContractError(f"{path} is no handover: {error}") from error


@dataclass(frozen=True)
class Told:
    """One line: optimizer steps taken, tokens learnt from, and whatever else the trainer measures."""

    step: int
    tokens: int
    values: Mapping[str, float]

    def line(self) -> str:
        """As a trainer writes it."""
        return json.dumps({"step": self.step, "tokens": self.tokens, **self.values}) + "\n"


def tell(path: Path, told: Told) -> None:
    """Append one line, whole."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, told.line().encode())
    finally:
        os.close(file)


class Follower:
    """Reads a trainer's lines as they come."""

    def __init__(self, path: Path, before: Told | None = None) -> None:
        """`before`: behind which the first line must not go back."""
        self._path, self._offset, self._lines, self._before = path, 0, 0, before
        self.last: Told | None = None

    def new(self) -> Iterator[Told]:
        """The whole lines since the last call. Raises ContractError at one that is none, or that goes back."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self._offset, self._lines = self._offset + len(line), self._lines + 1
            told = self._parse(line)
            self.last = told
            yield told

    def _parse(self, line: bytes) -> Told:
        try:
            data = json.loads(line)
            step, tokens = data.pop("step"), data.pop("tokens")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._wrong(line, 'is no {"step": 3, "tokens": 6144, NAME: NUMBER …}') from None
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (step, tokens)):
            raise self._wrong(line, "step and tokens are whole numbers from 0")
        if odd := [name for name, value in data.items() if isinstance(value, bool) or not isinstance(value, int | float)]:
            raise self._wrong(line, f"{odd[0]} is no number")
        before = self.last or self._before
        if before is not None and (step < before.step or tokens < before.tokens):
            raise self._wrong(line, f"goes back behind step {before.step} and {before.tokens} tokens")
        return Told(step, tokens, data)

    def _wrong(self, line: bytes, why: str) -> ContractError:
        return ContractError(f"{self._path}: line {self._lines}, {line.decode(errors='replace').strip()[:200]}: {why}")


def join_told(attempts: Iterable[Path]) -> list[Told]:
    """The lines of all attempts, oldest first, without those that a later attempt did again.

    Of one that ended at a line which is none, those before it.
    """
    joined: list[Told] = []
    for path in attempts:
        again: list[Told] = []
        with contextlib.suppress(ContractError):
            for told in Follower(path).new():
                again.append(told)
        if again:
            first = again[0]
            joined = [told for told in joined if told.step < first.step and told.tokens <= first.tokens]
        joined += again
    return joined


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
