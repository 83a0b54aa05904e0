"""What an ended attempt leaves for good. A job of a thousand ranks that is requeued for months would fill the file system.

The records stay, with the newest progress mark and the telling log; what only living processes needed goes.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from .arrays import array_place
from .journal import Attempt, End, JobFolder, JournalError, Outcome
from .progress import newest_heartbeat

KEPT_WHOLE = 10  # attempts of a job, the newest ones


def trim_older(folder: JobFolder, newest: int) -> None:
    """Trim the attempt that falls out of the newest ones now that attempt `newest` is made. Never in the way of that."""
    attempt = Attempt(folder.attempts_folder / f"{newest - KEPT_WHOLE:03d}")
    if newest > KEPT_WHOLE:
        with contextlib.suppress(OSError, JournalError):
            trim(attempt, shared=array_place(attempt) is not None)


def trim(attempt: Attempt, *, shared: bool) -> None:
    """Leave the records and the logs that tell something; an attempt that has not ended stays as it is.

    `shared`: its submitit folder is an array's, and may serve other jobs.
    """
    end = attempt.end()
    if end is None:
        return
    telling = end.rank if end.rank is not None else 0
    for path in attempt.folder.iterdir():
        if path == attempt.submitit_folder:
            if path.is_symlink():
                path.unlink()
            elif not shared:
                shutil.rmtree(path, ignore_errors=True)
        elif path != attempt.rank_log(telling) and not _tells(path, attempt, end, telling):
            path.unlink(missing_ok=True)


def _tells(path: Path, attempt: Attempt, end: End, rank: int) -> bool:
    """Say whether a file is one of the attempt's own records, of the telling rank, or a log of a success."""
    kind, _, of = path.stem.partition("-")
    if path.suffix != ".json":
        return end.outcome is Outcome.SUCCESS and path.stat().st_size > 0
    if kind in ("rank", "exit"):
        return of == str(rank)
    return kind != "heartbeat" or path == newest_heartbeat(attempt.folder)
