"""Saves during training: the step stops while the state is copied to host memory, a thread of each rank writes it out.

A save gets its name when all ranks have written, at the next step or later; a kill before leaves a folder without a name
and the save before it. `pretrain.checkpoint.every_tokens: 0` takes the interval of Young and Daly.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from athanor.artifacts.files import sha256_of
from athanor.artifacts.run import StageError
from athanor.recipe.schema.training import Checkpoint
from athanor.training import checkpoints
from athanor.training.checkpoints import State
from athanor.training.intervals import Costs, Interval
from athanor.training.optimizer import Learner
from athanor.training.sharded_state import Snapshot, snapshot_learner


class Saver:
    """Makes the saves below an artifact's folder. Its methods are called by all ranks together."""

    def __init__(self, folder: Path, learner: Learner, settings: Checkpoint, node_hours: float) -> None:
        """`node_hours` are those between two failures of a node, for the interval of Young and Daly."""
        self._folder, self._learner, self._settings = folder, learner, settings
        self._interval = Interval(settings, node_hours, len(set(learner.layout.nodes)))
        self._pending: _Pending | None = None
        self._stall = 0.0  # of the save under way

    def is_due(self) -> bool:
        """Whether the interval of Young and Daly has passed on this rank's clock; never where the recipe has one."""
        return not self._pending and self._interval.is_over()

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way."""
        return self._pending is not None

    @property
    def interval_seconds(self) -> float:
        """What the last saves cost says it; 0 before the first, which shows what one costs."""
        return self._interval.seconds

    def start(self, state: State, write_more: Callable[[Path], None] | None, began: float) -> Costs | None:
        """Begin a save of `state`, whose files are yet to be. `write_more` adds small files on this rank; training has stood
        still since `began` (time.monotonic).

        One that is under way is finished first. Returns the costs of what was published. Raises StageError where the disk
        has no room.
        """
        waited_from = time.monotonic()
        published = self.finish()
        began += self._interval.begin() - waited_from  # that is in the other save's costs
        folder = checkpoints.save_folder(self._folder, state.position.step)
        beside = checkpoints.begin(folder)
        snapshot = snapshot_learner(self._learner, beside, copy=self._settings.asynchronous)
        if write_more is not None:
            write_more(beside)
        tier = Path(tempfile.gettempdir()) if self._settings.local_first else None
        self._pending = _Pending(folder, beside, state, snapshot, tier, began)
        self._stall = time.monotonic() - began
        return published if self._settings.asynchronous else self.finish()

    def poll(self) -> Costs | None:
        """Publish the save under way if every rank has written it; what it cost, or None."""
        if self._pending is None or not self._all_written():
            return None
        return self._publish()

    def finish(self) -> Costs | None:
        """Wait for the save under way, and publish it."""
        if self._pending is None:
            return None
        began = time.monotonic()
        self._pending.thread.join()
        self._all_written()  # they have, or this raises
        self._stall += time.monotonic() - began
        return self._publish()

    def _all_written(self) -> bool:
        """Raises StageError on all ranks where one could not write."""
        assert self._pending is not None
        told = torch.tensor(
            [not self._pending.thread.is_alive(), self._pending.error is not None],
            dtype=torch.int32,
            device=self._learner.layout.device,
        )
        dist.all_reduce(told)
        if int(told[1]):
            raise self._pending.error or StageError(f"another rank could not write its part of {self._pending.folder}")
        return int(told[0]) == dist.get_world_size()

    def _publish(self) -> Costs:
        pending, self._pending = self._pending, None
        assert pending is not None
        began = time.monotonic()
        pending.snapshot.complete()
        checkpoints.publish(pending.folder, pending.beside, pending.state, pending.digests)
        checkpoints.prune(self._folder, self._settings.keep)
        now = time.monotonic()
        self._stall += now - began
        self._interval.learn(self._stall)
        return Costs(self._stall, now - pending.began)


class _Pending:
    """A save under way: this rank's files are written, and hashed, by a thread."""

    def __init__(self, folder: Path, beside: Path, state: State, snapshot: Snapshot, first: Path | None, began: float) -> None:
        self.folder, self.beside, self.state, self.snapshot, self.began = folder, beside, state, snapshot, began
        self.digests: dict[str, str] = {}
        self.error: Exception | None = None
        self._first = first
        # A daemon: who is killed while it writes must not wait for it.
        self.thread = threading.Thread(target=self._write, name=f"save {folder.name}", daemon=True)
        self.thread.start()

    def _write(self) -> None:
        try:
            if self._first is None:
                names = self.snapshot.write(self.beside)
                self.digests = {name: sha256_of(self.beside / name) for name in names}
                return
            with tempfile.TemporaryDirectory(prefix="save-", dir=self._first) as folder:
                names = self.snapshot.write(Path(folder))
                self.digests = {name: sha256_of(Path(folder) / name) for name in names}
                for name in names:
                    _copy(Path(folder) / name, self.beside / name)
        except Exception as error:  # told to all ranks at the next look
            self.error = error


def _copy(source: Path, target: Path) -> None:
    """With the bytes on the disk when it returns."""
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 16 << 20)
        write.flush()
        os.fsync(write.fileno())
