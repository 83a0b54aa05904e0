"""Keep a campaign's folders bounded: its old driver logs, and what the attempts of finished stages no longer need."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from athanor.artifacts.store import Store
from athanor.recipe.graph import Artifact
from snakemake_executor_plugin_submitit.journal import JobFolder
from snakemake_executor_plugin_submitit.trimming import trim

KEPT_DRIVER_LOGS = 50


def drop_old_driver_logs(folder: Path) -> None:
    """Delete all but the newest of Snakemake's logs, one of which every start of a driver leaves."""
    logs = sorted(folder.glob("*.snakemake.log"))  # their names begin with the time
    for log in logs[:-KEPT_DRIVER_LOGS]:
        log.unlink(missing_ok=True)


def seal(store: Store, artifacts: Iterable[Artifact]) -> None:
    """Leave of every attempt of the finished artifacts its records, and the logs that tell something."""
    done = [artifact for artifact in artifacts if store.is_done(artifact)]
    used = {path for stage in {artifact.stage for artifact in done} for path in _shared_and_used(store.root / stage)}
    for artifact in done:
        for attempt in JobFolder(store.folder(artifact)).attempts():
            with contextlib.suppress(OSError):  # another user's, who does not let the group write
                trim(attempt, shared=attempt.submitit_folder.resolve() in used)


def _shared_and_used(stage: Path) -> set[Path]:
    """The submitit folders of arrays with a job that has not ended; it may be another campaign's."""
    links = (path for path in stage.glob("*/attempts/*/submitit") if path.is_symlink())
    return {path.resolve() for path in links if not (path.parent / "end.json").exists()}
