"""What a campaign has run: one record a start, links by name, and the plans its stages are started with."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.artifacts.files import write_atomically
from athanor.campaign.campaign import Campaign
from athanor.recipe.loading import project_folder, resolved_text

SCHEMA_VERSION = 1
PLAN = "plan.yaml"  # in an artifact's folder: the recipe its next attempt is started with
RUNS = "runs.jsonl"


@dataclass(frozen=True)
class Start:
    """One `snakemake` of a campaign."""

    time: float  # seconds since the epoch
    recipe: str
    site: str
    overrides: tuple[str, ...]
    project: str
    artifacts: Mapping[str, str]  # name → STAGE/FINGERPRINT
    schema_version: int = SCHEMA_VERSION


def register(campaign: Campaign) -> None:
    """Record this start, write the plans of the missing artifacts and point the links by name at the current ones."""
    text = resolved_text(campaign.recipe)
    for artifact in campaign.missing():
        write_atomically(campaign.store.folder(artifact) / PLAN, text)
    write_atomically(campaign.folder / PLAN, text)
    start = Start(
        time=time.time(),
        recipe=campaign.recipe.name,
        site=campaign.site.name,
        overrides=campaign.overrides,
        project=str(project_folder()),
        artifacts={artifact.name: artifact.path for artifact in campaign.lifecycle},
    )
    _append_line(campaign.folder / RUNS, json.dumps(asdict(start)))
    _link(campaign)


def _append_line(path: Path, line: str) -> None:
    """Append `line`, after ending one that a killed driver left torn: it must not swallow this one."""
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if torn else b"") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def starts(folder: Path) -> list[Start]:
    """Every start of the campaign in `folder`, oldest first; torn lines are left out."""
    try:
        lines = (folder / RUNS).read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        found.append(Start(**{**data, "overrides": tuple(data["overrides"])}))
    return found


def campaigns(store_root: Path) -> Iterator[Path]:
    """The folders of all registered campaigns."""
    yield from sorted(path.parent for path in (store_root / "campaigns").glob(f"*/*/{RUNS}"))


def _link(campaign: Campaign) -> None:
    """`campaigns/OWNER/NAME/pretrain/480K` → the artifact's folder, relative so that the store can be moved."""
    for artifact in campaign.lifecycle:
        link = campaign.folder / artifact.stage / artifact.instance
        target = os.path.relpath(campaign.store.folder(artifact), link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        os.symlink(target, temporary)
        os.replace(temporary, link)
