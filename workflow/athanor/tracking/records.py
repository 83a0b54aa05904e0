"""What a spool's payloads mean, read into types; a field that is missing has a neutral value."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Begin:
    """Where an attempt began: every later step is its own, and of step `step` the curves `names` (None for all)."""

    step: int
    names: frozenset[str] | None


def begin_of(path: Path) -> Begin | None:
    """As the start record says, or else from the attempt's first metrics; None in an attempt without any."""
    step, names = None, set[str]()
    for record in read_records(path):
        if record.kind is Kind.START and isinstance(said := record.payload.get("start_step"), int):
            return Begin(said, None)
        if record.kind is Kind.METRICS:
            step = record.step if step is None else step
            if record.step > step:
                break
            names.update(record.payload)
    return None if step is None else Begin(step, frozenset(names))


def history(earlier: Sequence[Path], path: Path) -> Iterator[Record]:
    """The metrics of `earlier` attempts that attempt `path` goes on from: what a later attempt computed again is left
    out, so every point of the whole curve comes from exactly one attempt, the last that computed it."""
    begins = [begin for begin in [begin_of(path)] if begin]
    for spool in reversed(earlier):
        limit = min((begin.step for begin in begins), default=None)
        again = [begin.names for begin in begins if begin.step == limit]
        for record in read_records(spool):
            if record.kind is not Kind.METRICS or (limit is not None and record.step > limit):
                continue
            if record.step == limit:
                left = {k: v for k, v in record.payload.items() if not any(n is None or k in n for n in again)}
                record = replace(record, payload=left)
            if record.payload:
                yield record
        begins += [begin for begin in [begin_of(spool)] if begin]
