"""The write-ahead journal: what was meant, submitted and seen to end, one folder an attempt.

    FOLDER/attempts/NNN/   intent.json    before the submission: who means to run what
                           job.json       which job that became (or that nobody may submit it any more)
                           start-RRR.json one per start of the job: the submission, then every requeue
                           rank-K.json    how rank K ended; rank-K.log what it said
                           end.json       the outcome
                           judgement.json why it ended so, and what the driver did about it
                           accepted.json  the driver that took the result
                           submitit/      submitit's own files

An attempt is claimed by renaming a folder that already holds its intent onto the next number, which only one process
can do. Records that decide something are created exclusively and never changed. Standard library only: ranks read this.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from .processes import ProcessName

SCHEMA_VERSION = 1
UNWRITTEN = ".unwritten"  # an empty file where a record could not be written; a full file system still has room for a name


class JournalError(RuntimeError):
    """A record of the journal cannot be understood."""


class JobKind(StrEnum):
    """What runs an attempt."""

    SLURM = "slurm"
    LOCAL = "local"
    NONE = "none"
    """Nothing, for good: another driver took over before a job had registered."""


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """It vanished without a word: killed machine, forgotten by the controller, driver dead before submission."""


class Action(StrEnum):
    """What to do about an attempt that ended without success."""

    RESTART = "restart"
    ELSEWHERE = "restart elsewhere"
    """Start again, not on the node that failed."""
    ROLL_BACK = "roll back"
    """Start again; the program is told to go back behind its newest state."""
    ASK = "ask"
    """A person has to change something outside of the program first."""
    STOP = "stop"

    @property
    def starts_again(self) -> bool:
        """Whether the driver submits another attempt by itself."""
        return self in (Action.RESTART, Action.ELSEWHERE, Action.ROLL_BACK)


@dataclass(frozen=True)
class Record:
    """Base of the JSON records."""

    file_name: ClassVar[str]

    def to_json(self) -> str:
        """Return the record as a JSON object with the version of its schema."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def read(cls, folder: Path, name: str = "") -> Self | None:
        """Read the record from `folder`; None when it is not there."""
        path = folder / (name or cls.file_name)
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise JournalError(
                f"{path}: not a JSON record ({error}); move it away to have the attempt judged without it"
            ) from error
        if content.get("schema_version") != SCHEMA_VERSION:
            raise JournalError(
                f"{path}: schema_version={content.get('schema_version')}, this plugin reads "
                f"{SCHEMA_VERSION}; use the plugin version that wrote it"
            )
        return cls.from_dict({item.name: content[item.name] for item in fields(cls) if item.name in content})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the record from its JSON values."""
        return cls(**values)


@dataclass(frozen=True)
class Intent(Record):
    """Who means to run what: written before anything is submitted."""

    file_name: ClassVar[str] = "intent.json"
    key: str
    """Identity of the job among its workflow's jobs."""
    uid: str
    """Identity of this attempt; also the comment of its Slurm job."""
    spec: str
    """Hash of the command, to notice that it changed while a job runs."""
    kind: JobKind
    """What it is about to be submitted to."""
    rule: str
    command: str
    ranks: int
    driver: ProcessName
    user: str
    log: str = ""
    """Absolute path of the rule's first log file, a link to rank 0's log."""
    time: float = field(default_factory=time.time)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "kind": JobKind(values["kind"]), "driver": ProcessName(**values["driver"])})


@dataclass(frozen=True)
class JobRecord(Record):
    """Which job an attempt became."""

    file_name: ClassVar[str] = "job.json"
    kind: JobKind
    id: str
    """Slurm job id, or the pid of the local controller."""
    process: ProcessName | None = None
    """The local controller."""
    time: float = field(default_factory=time.time)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        process = ProcessName(**values["process"]) if values.get("process") else None
        return cls(**{**values, "kind": JobKind(values["kind"]), "process": process})

    def __str__(self) -> str:
        return f"{self.kind} job {self.id}"


@dataclass(frozen=True)
class StartRecord(Record):
    """One start of a job: the first, or after a requeue."""

    file_name: ClassVar[str] = "start-000.json"
    restart: int
    hosts: list[str]
    done: int | None = None
    """The furthest that the program's progress marks had come before this start; None without any."""
    revived: bool = False
    """The start before had failed, and neither this executor nor the program had asked for another: somebody else did."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RankRecord(Record):
    """How one rank ended."""

    file_name: ClassVar[str] = "rank-0.json"
    rank: int
    restart: int
    exit_code: int
    """As a shell would say it: 128 + the signal's number for a process that a signal ended."""
    host: str
    stopped: bool = False
    """A soft stop had been asked for."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class End(Record):
    """The outcome of an attempt."""

    file_name: ClassVar[str] = "end.json"
    outcome: Outcome
    cause: str = ""
    exit_code: int | None = None
    """Exit code of the first rank that failed; 0 after a success."""
    rank: int | None = None
    """The first rank that failed."""
    exit_codes: dict[str, int] = field(default_factory=dict)
    """Exit code of every rank that left a record, by rank."""
    state: str = ""
    """Slurm's own word, such as NODE_FAIL; TIMEOUT on the local machine too; else empty."""
    time: float = field(default_factory=time.time)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "outcome": Outcome(values["outcome"])})


@dataclass(frozen=True)
class Judgement(Record):
    """Why an attempt ended without success, and what the driver does about it."""

    file_name: ClassVar[str] = "judgement.json"
    cause: str
    action: Action
    advice: str = ""
    """What a person does about it, where one has to."""
    evidence: str = ""
    """The line that told the cause."""
    host: str = ""
    """Where the first rank failed; empty when nobody knows."""
    time: float = field(default_factory=time.time)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "action": Action(values["action"])})


@dataclass(frozen=True)
class Acceptance(Record):
    """The driver that took the result of a finished attempt."""

    file_name: ClassVar[str] = "accepted.json"
    driver: ProcessName
    time: float = field(default_factory=time.time)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "driver": ProcessName(**values["driver"])})


def write_exclusively(folder: Path, record: Record, name: str = "") -> bool:
    """Create the record in `folder` with its content, durably; False when it was there already."""
    path = folder / (name or record.file_name)
    draft = _draft(path, record)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        return _create(path, record)  # a file system without hard links
    finally:
        draft.unlink()
    return True


def replace(folder: Path, record: Record, name: str = "") -> None:
    """Write the record in `folder`, atomically, over an earlier one."""
    path = folder / (name or record.file_name)
    os.replace(_draft(path, record), path)


def _draft(path: Path, record: Record) -> Path:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(record.to_json())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if draft.exists():
            os.replace(draft, path.with_name(UNWRITTEN))
        raise
    return draft


def _create(path: Path, record: Record) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(record.to_json())
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Attempt:
    """One submission of a job, and everything its folder says. Records are read anew at every call."""

    folder: Path

    @property
    def number(self) -> int:
        """Which submission of the job this is, from 1."""
        return int(self.folder.name)

    @property
    def submitit_folder(self) -> Path:
        """Submitit's files of this attempt only: job ids and pids get reused."""
        return self.folder / "submitit"

    def rank_log(self, rank: int) -> Path:
        """Where rank `rank` writes what it has to say."""
        return self.folder / f"rank-{rank}.log"

    def intent(self) -> Intent:
        """Read who meant to run what."""
        intent = Intent.read(self.folder)
        if intent is None:
            raise JournalError(f"{self.folder}: no intent.json; remove the folder if no job of it runs")
        return intent

    def job(self) -> JobRecord | None:
        """Read which job the attempt became; None when nobody has said yet."""
        return JobRecord.read(self.folder)

    def end(self) -> End | None:
        """Read the outcome; None while there is none."""
        return End.read(self.folder)

    def acceptance(self) -> Acceptance | None:
        """Read which driver took the result first; None when none did."""
        return Acceptance.read(self.folder)

    def judgement(self) -> Judgement | None:
        """Read why it ended without success; None where no driver has said."""
        return Judgement.read(self.folder)

    def starts(self) -> list[StartRecord]:
        """Read the starts of this attempt's job, requeues included, oldest first."""
        records = (StartRecord.read(self.folder, path.name) for path in sorted(self.folder.glob("start-*.json")))
        return [record for record in records if record is not None]

    def ranks(self) -> dict[int, RankRecord]:
        """Read how the ranks that have ended did so, by rank."""
        records = (RankRecord.read(self.folder, path.name) for path in self.folder.glob("rank-*.json"))
        return {record.rank: record for record in records if record is not None}

    def finish(self, end: End) -> bool:
        """Record the outcome; False when one had been recorded."""
        return write_exclusively(self.folder, end)


@dataclass(frozen=True)
class JobFolder:
    """The folder that holds all attempts of one job."""

    folder: Path

    @property
    def attempts_folder(self) -> Path:
        """Where the attempts lie."""
        return self.folder / "attempts"

    def attempts(self) -> list[Attempt]:
        """List the attempts, oldest first."""
        try:
            names = [path.name for path in self.attempts_folder.iterdir() if path.name.isdigit()]
        except FileNotFoundError:
            return []
        return [Attempt(self.attempts_folder / name) for name in sorted(names, key=int)]

    def latest(self) -> Attempt | None:
        """Return the newest attempt, or None before the first."""
        attempts = self.attempts()
        return attempts[-1] if attempts else None

    def claim(self, number: int, intent: Intent) -> Attempt | None:
        """Take attempt `number` with `intent` in it; None when another process was first."""
        self.attempts_folder.mkdir(parents=True, exist_ok=True)
        draft = self.attempts_folder / f".claim-{intent.uid}"
        draft.mkdir()
        replace(draft, intent)
        claimed = self.attempts_folder / f"{number:03d}"
        try:
            os.rename(draft, claimed)
        except OSError as error:
            shutil.rmtree(draft)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise
        return Attempt(claimed)


def read_jobs(root: Path) -> dict[Path, list[Attempt]]:
    """Find every job folder below `root` (any depth) and its attempts, oldest first: the journal's public reader."""
    found = sorted(path.parent for path in root.rglob("attempts") if path.is_dir())
    return {folder: JobFolder(folder).attempts() for folder in found}
