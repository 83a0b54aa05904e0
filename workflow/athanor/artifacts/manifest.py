"""The manifest: written last and atomically, it says what a stage consumed and produced, and proves it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from athanor.artifacts.files import FileRecord, sha256_of, write_json

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
IDENTITY = "recipe.yaml"  # what the fingerprint was taken of, written when the run starts
SEAL = "sealed.json"  # the same content; Snakemake deletes a declared output before a rerun, but never this


class ManifestError(Exception):
    """A manifest that is missing, unreadable or of another schema version."""


class DamagedManifest(ManifestError):
    """A file that is there but holds no manifest."""


@dataclass(frozen=True)
class Upstream:
    """One artifact that was consumed."""

    stage: str
    instance: str
    fingerprint: str


@dataclass(frozen=True)
class Result:
    """What was made: the same for an undisturbed and a disturbed run."""

    stage: str
    instance: str
    fingerprint: str
    upstreams: Mapping[str, Upstream]
    files: tuple[FileRecord, ...]
    counters: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """How it came about: may differ between two runs of the same stage."""

    tracking_id: str
    attempts: int
    started: float  # seconds since the epoch, of the attempt that finished
    seconds: float  # of that attempt
    host: str
    git_commit: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    trainer: Mapping[str, str] = field(
        default_factory=dict
    )  # another's program: command, version, sha256 by file; else not written


@dataclass(frozen=True)
class Manifest:
    """`result` and `provenance` of one artifact."""

    result: Result
    provenance: Provenance

    def write(self, folder: Path) -> None:
        """Seal `folder`: the proof beside the bytes first, then the manifest that Snakemake sees."""
        data = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        if not self.provenance.trainer:  # which manifests had not always
            del data["provenance"]["trainer"]
        write_json(folder / SEAL, data)
        write_json(folder / MANIFEST, data)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises ManifestError."""
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ManifestError(f"{path} is missing") from error
        except ValueError as error:
            raise DamagedManifest(f"{path} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise DamagedManifest(f"{path} is JSON, but no manifest")
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ManifestError(f"{path} has schema_version {data.get('schema_version')}, this Athanor reads {SCHEMA_VERSION}")
        try:
            return cls(_result(data["result"]), _provenance(data["provenance"]))
        except (KeyError, TypeError) as error:
            raise DamagedManifest(f"{path} is no whole manifest: {error}") from error

    def verify(self, folder: Path, *, deep: bool = False) -> list[str]:
        """What is wrong with the bytes in `folder`: missing files, other sizes and, if `deep`, other hashes."""
        wrong = []
        for record in self.result.files:
            path = folder / record.path
            if not path.is_file():
                wrong.append(f"{record.path} is missing")
            elif path.stat().st_size != record.bytes:
                wrong.append(f"{record.path} has {path.stat().st_size} bytes, the manifest says {record.bytes}")
            elif deep and (found := sha256_of(path)) != record.sha256:
                wrong.append(f"{record.path} has sha256 {found[:12]}…, the manifest says {record.sha256[:12]}…")
        return wrong


def _result(data: dict[str, Any]) -> Result:
    return Result(
        **{
            **data,
            "upstreams": {name: Upstream(**upstream) for name, upstream in data["upstreams"].items()},
            "files": tuple(FileRecord(**record) for record in data["files"]),
        }
    )


def _provenance(data: dict[str, Any]) -> Provenance:
    return Provenance(**{**data, "jobs": tuple(data["jobs"])})
