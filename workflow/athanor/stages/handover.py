"""The engine that answers with the weights that learn: handed over whole with their checksum, round by round."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import torch

from athanor.artifacts.run import StageError, StageRun
from athanor.models.folder_weights import FolderWeights
from athanor.recipe.schema.choices import RolloutEngine
from athanor.rl.rollouts.handover import checksum
from athanor.rl.rollouts.in_process import InProcessEngine
from athanor.rl.rollouts.sampling import Engine, Prompt, Sample, Sampling
from athanor.rl.rollouts.served import ServerEngine
from athanor.rl.rollouts.shards import Order, read_samples, roll_out
from athanor.stages.asking import engine_of
from athanor.training.rounds import Weights

Write = Callable[[Weights, Path], None]  # fills a folder that a server can serve
PROMPTS_A_SHARD = 16  # what a rank that is killed has to answer again, at most
LOOK_SECONDS = 1.0
HANDOVER = "handover"  # the folder of a server's weights, below the stage's


class Answerer:
    """Of one rank. Its engine is there once something is asked, and is kept over rounds."""

    def __init__(self, stage: StageRun, start: Path, ends: Sequence[int], write: Write) -> None:
        """`ends`: tokens that end an answer."""
        self._stage, self._start, self._ends, self._write = stage, start, ends, write
        self._in_process = stage.recipe.rollouts.engine is RolloutEngine.IN_PROCESS
        self._engine: Engine | None = None
        self._has = ""

    @property
    def is_shared(self) -> bool:
        """Whether every rank asks an engine of its own; else rank 0 asks the server."""
        return self._in_process

    def answer(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        folder: Path,
        weights: Callable[[], Weights],
        has: str,
        on_shard: Callable[[], None] = lambda: None,
    ) -> list[Sample]:
        """The samples of `prompts` by the weights of the checksum `has`, in shards below `folder`; what is there is kept.

        Raises StageError where the engine does not have these weights afterwards.
        """
        order = Order(has, sampling, PROMPTS_A_SHARD)
        shards = roll_out(prompts, order, lambda: _Kept(self._with(weights, has)), folder, lambda _done, _of: on_shard())
        return list(read_samples(shards))

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        shutil.rmtree(self._stage.folder / HANDOVER, ignore_errors=True)

    def _with(self, weights: Callable[[], Weights], has: str) -> Engine:
        if self._engine is None or self._has != has:
            self._engine = self._loaded(weights(), has) if self._in_process else self._served(weights(), has)
            self._has = has
        return self._engine

    def _loaded(self, weights: Weights, has: str) -> Engine:
        engine = self._engine or InProcessEngine(self._start, self._ends)
        assert isinstance(engine, InProcessEngine)
        if isinstance(weights, FolderWeights):
            engine.read(weights.folder)
            found = checksum(weights)
        else:
            found = engine.load(weights)
        if found != has:
            raise StageError(f"weights {has} were handed over, and these are {found}; memory may be faulty, or the disk")
        return engine

    def _served(self, weights: Weights, has: str) -> Engine:
        """A server on a folder of these weights: one that is told to read them, or else is started again."""
        # A folder is handed over by links to the files that were summed.
        if not isinstance(weights, FolderWeights) and (found := checksum(weights)) != has:
            raise StageError(f"weights {has} were to be handed over, and these are {found}; memory may be faulty")
        folder = self._stage.folder / HANDOVER
        draft = folder.with_name(f".{HANDOVER}.partial")  # a server that dies meanwhile finds the old ones, whole
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        self._write(weights, draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        if self._reloads(self._engine):
            return self._engine
        if self._engine is not None:
            self._engine.close()
        return engine_of(self._stage, folder, self._ends)

    def _reloads(self, engine: Engine | None) -> TypeGuard[Engine]:
        """Whether the server goes on with what its folder has now."""
        requests = self._stage.site.server_reload if self._stage.site else []
        if not (isinstance(engine, ServerEngine) and requests):
            return False
        try:
            engine.reload(requests)
        except StageError as error:
            print(f"{error}; it is started again", flush=True)
            return False
        return True


class _Kept:
    """An engine that is not ended with the shards it was opened for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        """As the engine's own."""
        return self._engine.generate(prompts, sampling)

    def close(self) -> None:
        """Nothing."""


class Ahead:
    """One piece of work beside the training: it is waited for, and what it raised is raised then."""

    def __init__(self, work: Callable[[Callable[[], None]], object]) -> None:
        """`work` calls what it is given whenever a part of it is done."""
        self._error: BaseException | None = None
        self._marks = 0
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self._thread = threading.Thread(target=self._run, args=(work,), name="ahead", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Callable[[], None]], object]) -> None:
        if self._device is not None:
            torch.cuda.set_device(self._device)  # a thread begins with the node's first
        try:
            work(self._mark)
        except BaseException as error:  # it is raised where it is waited for
            self._error = error

    def _mark(self) -> None:
        self._marks += 1

    def wait(self, on_mark: Callable[[], None] = lambda: None) -> None:
        """Until it is done; `on_mark` is called while parts of it get done. Raises what it raised."""
        seen = self._marks
        while self._thread.is_alive():
            self._thread.join(LOOK_SECONDS)
            if self._marks != seen:
                seen = self._marks
                on_mark()
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Until it has ended, however it did."""
        self._thread.join()
