"""What a spool's payloads mean, read into types; a field that is missing has a neutral value."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from athanor.tracking.spool import Kind, Record, read_records

NESTED = "system/"  # MLflow shows metrics below it on a tab of their own


@dataclass(frozen=True)
class Upstream:
    """One input of an attempt: the name the stage knows it by, and the artifact."""

    name: str
    stage: str
    instance: str
    fingerprint: str


@dataclass(frozen=True)
class Start:
    """Who runs."""

    stage: str
    instance: str
    fingerprint: str
    attempt: int
    host: str
    git_commit: str
    params: Mapping[str, str]
    versions: Mapping[str, str]
    upstreams: tuple[Upstream, ...]

    @property
    def name(self) -> str:
        """`pretrain/400K`."""
        return f"{self.stage}/{self.instance}"

    @classmethod
    def read(cls, payload: Mapping[str, object], folder: Path, attempt: int) -> "Start":
        """From the record of kind start; the folder and file name stand in for what a damaged one does not say."""
        upstreams = [
            Upstream(name, *(text(mapping(entry), key) for key in ("stage", "instance", "fingerprint")))
            for name, entry in mapping(payload.get("upstreams")).items()
        ]
        return cls(
            stage=text(payload, "stage") or folder.parent.name,
            instance=text(payload, "instance") or folder.name,
            fingerprint=text(payload, "fingerprint") or folder.name,
            attempt=attempt,
            host=text(payload, "host"),
            git_commit=text(payload, "git_commit"),
            params=flat(mapping(payload.get("params"))),
            versions=flat(mapping(payload.get("versions"))),
            upstreams=tuple(upstreams),
        )


def mapping(value: object) -> Mapping[str, object]:
    """`value` as a mapping; empty where it is none."""
    return value if isinstance(value, Mapping) else {}


def text(payload: Mapping[str, object], key: str) -> str:
    """A string field; empty where it is missing."""
    value = payload.get(key)
    return "" if value is None else str(value)


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested mappings by dotted key, every value as text: `{"a": {"b": 1}}` is `{"a.b": "1"}`."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def numbers(record: Record) -> Iterator[tuple[str, float]]:
    """The values of a record of kind metrics or system; what is no number is left out."""
    prefix = NESTED if record.kind is Kind.SYSTEM else ""
    for name, value in record.payload.items():
        with suppress(ValueError, TypeError):
            yield prefix + name, float(value)  # type: ignore[arg-type]


def first_step(path: Path) -> int | None:
    """The step an attempt began at: as its start record says, or else its first metrics record; None without one."""
    for record in read_records(path):
        if record.kind is Kind.START and isinstance(said := record.payload.get("start_step"), int):
            return said
        if record.kind is Kind.METRICS:
            return record.step
    return None


def history(earlier: Sequence[Path], path: Path) -> Iterator[Record]:
    """The metrics of `earlier` attempts that attempt `path` goes on from: a step is left out where a later attempt
    began at it or before, so every step of the whole curve comes from exactly one attempt."""
    until = first_step(path)
    for spool in reversed(earlier):
        begin = first_step(spool)
        if until is None:
            until = begin
            yield from (r for r in read_records(spool) if r.kind is Kind.METRICS)
            continue
        limit = until
        yield from (r for r in read_records(spool) if r.kind is Kind.METRICS and r.step < limit)
        until = limit if begin is None else min(begin, limit)
