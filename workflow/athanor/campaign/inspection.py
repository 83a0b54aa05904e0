"""Look at artifacts from the command line: are they whole, where are they, what do they say."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.campaign.campaign import Campaign
from athanor.campaign.state import State, latest_attempt, state_of
from athanor.recipe.graph import Artifact


class NoSuchStage(Exception):
    """A stage name the campaign does not have."""


def select(campaign: Campaign, names: Sequence[str]) -> list[Artifact]:
    """The artifacts named `pretrain` (all of a stage) or `pretrain/480K`; all of them for no name."""
    chosen = []
    for name in names:
        found = [a for a in campaign.lifecycle if name in (a.name, a.stage, a.fingerprint)]
        if not found:
            stages = ", ".join(dict.fromkeys(a.stage for a in campaign.lifecycle))
            raise NoSuchStage(
                f"campaign {campaign.name} has no stage {name!r}; there are {stages} (or one of them: pretrain/480K)"
            )
        chosen += found
    return chosen or list(campaign.lifecycle)


def verify(campaign: Campaign, artifacts: Sequence[Artifact], *, deep: bool) -> Iterator[tuple[Artifact, list[str]]]:
    """What is wrong with each artifact; an empty list where it is whole."""
    for artifact in artifacts:
        manifest = campaign.store.manifest(artifact)
        if manifest is None:
            yield artifact, [f"has no readable manifest ({state_of(campaign.store.folder(artifact))})"]
        elif manifest.result.fingerprint != artifact.fingerprint:
            yield artifact, [f"its manifest says {manifest.result.fingerprint}, its folder {artifact.fingerprint}"]
        else:
            yield artifact, manifest.verify(campaign.store.folder(artifact), deep=deep)


def log_path(folder: Path, rank: int) -> Path | None:
    """The log of one rank of the newest attempt."""
    attempt = latest_attempt(folder)
    candidates = [attempt / f"rank-{rank}.log"] if attempt else []
    candidates += [folder / "stage.log"] if rank == 0 else []
    return next((path for path in candidates if path.is_file()), None)


def request_profile(folder: Path, steps: int) -> list[Path]:
    """Have the running training in `folder` trace its next `steps` steps, and wait for it. Returns the new traces, none
    where the stage ended before."""
    traces = folder / "profile"
    before = set(traces.glob("*"))
    request = folder / "profile.json"
    write_json(request, {"schema_version": 1, "steps": steps})
    while request.is_file():
        if state_of(folder) is not State.RUNNING:
            request.unlink(missing_ok=True)
            break
        time.sleep(0.2)
    return sorted(set(traces.glob("*")) - before)


def print_log(folder: Path, path: Path, follow: bool) -> None:
    """Copy a log to the screen; with `follow`, until the artifact is done or failed."""
    with open(path, encoding="utf-8", errors="replace") as log:
        while True:
            sys.stdout.write(log.read())
            sys.stdout.flush()
            if not follow or state_of(folder) in (State.DONE, State.FAILED):
                sys.stdout.write(log.read())
                return
            time.sleep(0.5)
