"""The spool: what a stage says about itself, one append-only JSONL file an attempt, safe against a kill at any byte.

A record is one line: {schema_version, seq, time, step, kind, payload}. Only the standard library is imported: training
pays one buffered write a record (about 10 microseconds) and never waits for MLflow.
"""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SCHEMA_VERSION = 1
FOLDER = "tracking"  # below the artifact's folder
READ_BYTES = 1 << 20  # read at once: bounds the writer's memory
LAST_BYTES = 1 << 16  # hold the last record
SYSTEM_METRICS_SECONDS = 10.0


class Kind(StrEnum):
    """What a record is about."""

    START = "start"
    PARAMS = "params"
    METRICS = "metrics"
    DATASET = "dataset"
    MODEL = "model"
    ARTIFACT = "artifact"
    SYSTEM = "system"
    END = "end"


class Status(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"  # it saved and continues in the next attempt


DURABLE = frozenset({Kind.START, Kind.DATASET, Kind.MODEL, Kind.ARTIFACT, Kind.END})  # rare and worth an fsync


class SpoolVersionError(Exception):
    """A spool written by a newer Athanor."""


@dataclass(frozen=True)
class Record:
    """One line of a spool; `time` in seconds since the epoch, `step` in optimizer steps (seconds for kind system)."""

    seq: int
    time: float
    step: int
    kind: Kind
    payload: Mapping[str, object]


@dataclass(frozen=True)
class Chunk:
    """Complete records read from a spool, the byte offset behind them, and how many damaged lines were left out."""

    records: tuple[Record, ...]
    offset: int
    damaged: int


class Spool:
    """Appends records to one attempt's file. Thread-safe; reopening cuts a torn last line off and counts on."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._seq, self._began = _recover(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._lock = threading.Lock()

    def start(self, payload: Mapping[str, object]) -> None:
        """Who runs: stage, instance, fingerprint, attempt, params, upstreams, host, versions, git_commit, and
        `start_step` where it is already known (else the attempt's first metrics record says it)."""
        self._append(Kind.START, dict(payload))

    def params(self, values: Mapping[str, object]) -> None:
        """More parameters of this attempt; nested ones are flattened with dots."""
        self._append(Kind.PARAMS, dict(values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve in `values`."""
        self._append(Kind.METRICS, {name: float(value) for name, value in values.items()}, step)

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """A dataset this stage made or read; `digest` at most 36 characters reach MLflow."""
        payload = {"name": name, "digest": digest, "source": source, "context": context, "profile": dict(profile)}
        self._append(Kind.DATASET, payload)

    def model(self, name: str, step: int, path: str | Path, params: Mapping[str, object], source: str) -> None:
        """A checkpoint or exported model; `path` below the artifact's folder, `source` its format: `megatron`."""
        payload = {"name": name, "path": self._relative(path), "params": dict(params), "source": source}
        self._append(Kind.MODEL, payload, step)

    def artifact(self, path: str | Path, title: str) -> None:
        """A figure or report that people want to see in MLflow; a file or folder below the artifact's folder."""
        self._append(Kind.ARTIFACT, {"path": self._relative(path), "title": title})

    def system(self, values: Mapping[str, float]) -> None:
        """One sample of the machine's load; its step is the seconds since the attempt began."""
        self._append(Kind.SYSTEM, {name: float(v) for name, v in values.items()}, max(0, int(time.time() - self._began)))

    def system_metrics(self, every_seconds: float = SYSTEM_METRICS_SECONDS) -> AbstractContextManager[object]:
        """While the context is open, a thread samples processor, memory, disk and GPUs."""
        from athanor.tracking.system_metrics import Sampler

        return Sampler(self, self.path.parent, every_seconds)

    def end(
        self,
        status: str,
        message: str = "",
        seconds: float = 0.0,
        counters: Mapping[str, object] | None = None,
    ) -> None:
        """How the attempt ended and, where it made a result, the result's counters."""
        payload = {"status": Status(status), "message": message, "seconds": round(seconds, 3)}
        self._append(Kind.END, {**payload, "counters": dict(counters or {})})

    def close(self) -> None:
        """Give the file back; a closed spool takes no more records."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _append(self, kind: Kind, payload: Mapping[str, object], step: int = 0) -> None:
        with self._lock:
            self._seq += 1
            record = {"schema_version": SCHEMA_VERSION, "seq": self._seq, "time": round(time.time(), 3)}
            record.update(step=int(step), kind=kind, payload=_strict(payload))  # type: ignore[call-overload]
            line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")).encode() + b"\n"
            while line:  # one write as a rule; a signal or a full disk may cut it
                line = line[os.write(self._file, line) :]
            if kind in DURABLE:
                os.fsync(self._file)

    def _relative(self, path: str | Path) -> str:
        """`path` below the artifact's folder, so that the store can be moved."""
        folder, path = self.path.parent.parent.absolute(), Path(path)
        return (path.relative_to(folder) if path.is_absolute() else path).as_posix()


class NullSpool:
    """The spool of ranks other than 0: the same methods, no file."""

    def start(self, payload: Mapping[str, object]) -> None:
        """Nothing."""

    def params(self, values: Mapping[str, object]) -> None:
        """Nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """Nothing."""

    def model(self, name: str, step: int, path: str | Path, params: Mapping[str, object], source: str) -> None:
        """Nothing."""

    def artifact(self, path: str | Path, title: str) -> None:
        """Nothing."""

    def system(self, values: Mapping[str, float]) -> None:
        """Nothing."""

    def system_metrics(self, every_seconds: float = SYSTEM_METRICS_SECONDS) -> AbstractContextManager[object]:
        """Nothing is sampled."""
        return nullcontext()

    def end(
        self,
        status: str,
        message: str = "",
        seconds: float = 0.0,
        counters: Mapping[str, object] | None = None,
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def spool_files(folder: Path) -> list[Path]:
    """The spools of an artifact, first attempt first."""
    return sorted((folder / FOLDER).glob("*.jsonl"), key=lambda path: (len(path.stem), path.stem))


def read_chunk(path: Path, offset: int = 0, limit: int = READ_BYTES) -> Chunk:
    """The complete records behind byte `offset`, about `limit` bytes of them. Raises SpoolVersionError."""
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(limit)
        if len(data) == limit and b"\n" not in data:
            data += file.readline()
    data = data[: data.rfind(b"\n") + 1]
    records, damaged = [], 0
    for line in data.splitlines():
        record = _parse(line, path)
        if record is None:
            damaged += 1
        else:
            records.append(record)
    return Chunk(tuple(records), offset + len(data), damaged)


def read_records(path: Path) -> Iterator[Record]:
    """Every complete record of a spool."""
    offset = 0
    while (chunk := read_chunk(path, offset)).offset > offset:
        yield from chunk.records
        offset = chunk.offset


def ends_of(path: Path) -> tuple[Record, Record] | None:
    """The first and the last whole record of a spool of any length; None where it has none. Raises SpoolVersionError."""
    with open(path, "rb") as file:
        first = _parse(file.readline(), path)
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
        whole = file.read().split(b"\n")[:-1]
    if first is None:
        return None
    last = _parse(whole[-1], path) if whole else None
    return first, last or first


def _strict(value: object) -> object:
    """JSON has no NaN: `nan`, `inf` and `-inf` go as strings, wherever they are, which float() reads back and MLflow keeps."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return value


def _parse(line: bytes, path: Path) -> Record | None:
    """The record of one line; None for one that a crash of the machine has damaged."""
    try:
        data = json.loads(line)
        version = data["schema_version"]
        if version == SCHEMA_VERSION:
            return Record(data["seq"], data["time"], data["step"], Kind(data["kind"]), data["payload"])
    except (ValueError, KeyError, TypeError):
        return None
    raise SpoolVersionError(f"{path} has schema_version {version}, this Athanor reads {SCHEMA_VERSION}: upgrade it")


def _recover(path: Path) -> tuple[int, float]:
    """Cut a torn last line off; the last sequence number (0 in a new file) and when the attempt began."""
    if not path.exists():
        return 0, time.time()
    whole = _whole_bytes(path)
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    seq, began = 0, None
    for record in read_records(path):
        seq, began = record.seq, record.time if began is None else began
    return seq, time.time() if began is None else began


def _whole_bytes(path: Path) -> int:
    """Bytes up to and with the last newline."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - READ_BYTES)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0
