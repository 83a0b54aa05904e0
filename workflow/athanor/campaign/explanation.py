"""Why a stage would run: it is missing, or these keys changed since the campaign's last start."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import yaml

from athanor.artifacts.manifest import IDENTITY, SEAL
from athanor.campaign.campaign import Campaign
from athanor.campaign.registry import Start, starts
from athanor.recipe.graph import Artifact


@dataclass(frozen=True)
class Reason:
    """An artifact that would be made, and why."""

    artifact: Artifact
    why: str


def explain(campaign: Campaign) -> list[Reason]:
    """A reason for every missing artifact of the campaign."""
    history = starts(campaign.folder)
    return [Reason(artifact, _why(campaign, artifact, history[-1] if history else None)) for artifact in campaign.missing()]


def print_plan(campaign: Campaign, out: TextIO | None = None) -> None:
    """Print what would run and why, one line an artifact."""
    reasons, total = explain(campaign), len(list(campaign.lifecycle))
    print(
        f"campaign {campaign.name} at {campaign.site.name}: {len(reasons)} of {total} stages to run",
        file=out or sys.stdout,
    )
    for reason in reasons:
        print(f"  {reason.artifact.name:28} {reason.artifact.fingerprint}  {reason.why}", file=out or sys.stdout)


def _why(campaign: Campaign, artifact: Artifact, last: Start | None) -> str:
    folder = campaign.store.folder(artifact)
    if (folder / SEAL).is_file():
        return "its manifest was deleted; the sealed bytes are there and will be adopted"
    before = last.artifacts.get(artifact.name) if last else None
    if before is None:
        return "new in this campaign" if last else "missing"
    if before == artifact.path:
        return "not finished yet: it continues" if (folder / "attempts").is_dir() else "missing"
    path = campaign.store.root / before / IDENTITY
    if not path.is_file():
        return "changed since the last start"
    return _difference(yaml.safe_load(path.read_text()), artifact.identity())


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changes = [f"{k} {_shown(a)} → {_shown(b)}" for k, a, b in _changed(before["section"], now["section"])]
    changes += [f"{k} {_shown(a)} → {_shown(b)}" for k, a, b in _changed(before["packages"], now["packages"])]
    if before["version"] != now["version"]:
        changes.append(f"stage version {before['version']} → {now['version']}")
    if not changes:
        upstreams = [name for name, _, _ in _changed(before["upstreams"], now["upstreams"])]
        return f"made from another {', '.join(upstreams[:3])}{' …' if len(upstreams) > 3 else ''}"
    return ", ".join(changes[:4]) + (f" and {len(changes) - 4} more" if len(changes) > 4 else "")


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [*now, *(name for name in before if name not in now)]
    return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "…"
