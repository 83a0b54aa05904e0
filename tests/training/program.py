"""One rank of a small training run. Ends like a stage: 0 done, 75 stopped, 1 with the StageError on stderr."""

import json
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from athanor.artifacts.run import STOPPED, StageError, StageRun, Stopped
from athanor.recipe.schema.choices import Backend
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site
from athanor.tracking.spool import NullSpool, Spool

EVERYWHERE = -1


@dataclass(frozen=True)
class BitFlip:
    """A rank whose arithmetic goes wrong from training step `first` on: in one number of a module's output, the bits of `mask`
    are stuck at one."""

    rank: int  # or EVERYWHERE
    first: int
    times: int | None = None  # None: from then on always
    module: str = "output_layer"
    mask: int = 0x7F800000  # the exponent


@dataclass(frozen=True)
class Job:
    """What all ranks of a run are told. Without `start` the job is to initialize."""

    folder: Path
    recipe: Recipe
    start: Path | None = None
    end_tokens: int = 0
    flip: BitFlip | None = None  # arithmetic that goes wrong
    poison: int | None = None  # a first token whose samples give no finite loss
    poisoned: tuple[int, ...] = ()  # samples of these numbers begin with `poison`
    roll_back: bool = False  # start behind the newest checkpoint
    packed: bool = False  # train on packed chains, from the weights of `start` alone
    first_sample: int = 0  # the corpus begins there
    garbled: tuple[int, ...] = ()  # samples of these numbers are noise
    free_bytes: int | None = None  # on the disk, from the second save on
    uncured: str = ""  # a silent error of Megatron to let through, of `faults.UNCURED`
    slow_writes_from: int = 0  # the first save of this step on is written until the test deletes `writing-RANK`
    failing_writes_from: int = 0  # saves of this step on find no room on the last rank
    domains: bool = False  # losses are told by domain: `even` and `odd` numbers of samples
    slow_rank: int | None = None  # waits for 0.2 s in each of its steps
    peak_tflops: float = 0.0  # the site's
    note_samples: bool = False  # write the numbers of the samples that are read into `samples-RANK.txt`
    answers: Path | None = None  # learn from given answers, by `recipe.online`; the folder of the start in its exported form
    backend: Backend = Backend.MEGATRON  # there
    pause_at_step: int = 0  # every rank waits before this step, as `faults.Interrupted` does


def main(path: str) -> int:
    """Run one rank."""
    job: Job = pickle.loads(Path(path).read_bytes())
    rank = int(os.environ.get("RANK", "0"))
    job.folder.mkdir(parents=True, exist_ok=True)
    spool = Spool(job.folder / "tracking" / f"{time.time_ns()}.jsonl") if rank == 0 else NullSpool()
    stage = StageRun(
        job.recipe,
        "pretrain",
        "test",
        "0" * 16,
        job.folder,
        {},
        rank,
        int(os.environ.get("WORLD_SIZE", "1")),
        roll_back=job.roll_back,
        site=Site(peak_tflops=job.peak_tflops),
        spool=spool,
    )
    stage.listen_for_stop()
    try:
        outcome = _run(job, stage)
    except Stopped:
        return STOPPED
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if rank == 0:
        result = {"files": outcome.files, "counters": dict(outcome.counters), "metrics": dict(outcome.metrics)}
        (job.folder / "outcome.json").write_text(json.dumps(result))
    return 0


def _run(job: Job, stage: StageRun) -> object:
    if job.start is None:
        from athanor.training.initialization import initialize

        return initialize(stage, job.recipe)
    from athanor.stages.pretrain import failures_so_far
    from athanor.training.loop import train
    from athanor.training.samples import SampleReader
    from athanor.training.task import Task
    from tests.training.faults import (
        Broken,
        Counted,
        Garbled,
        Interrupted,
        Noted,
        Poisoned,
        Slow,
        fail_writes,
        fill_disk,
        hold_writes,
        let_through,
    )
    from tests.training.synthetic import AffineChains, PackedChains, held_out, packed_held_out

    if job.answers is not None:
        from tests.training.given_answers import learn

        return learn(stage, job.start, job.answers, job.backend, job.pause_at_step)
    if job.uncured:
        let_through(job.uncured)
    if job.slow_writes_from:
        hold_writes(job.folder, stage.rank, job.slow_writes_from)
    if job.failing_writes_from and stage.rank == stage.world_size - 1:
        fail_writes(job.failing_writes_from)
    if job.free_bytes is not None:
        fill_disk(job.free_bytes)
    pretrain = job.recipe.pretrain
    count = pretrain.batch_tokens // pretrain.sequence_length
    if job.packed:
        return train(stage, Task(pretrain, job.start, job.end_tokens, PackedChains, packed_held_out, afresh=True))
    samples: SampleReader = Garbled(AffineChains(job.first_sample), job.garbled)
    if job.note_samples:
        samples = Noted(samples, job.folder / f"samples-{stage.rank}.txt")
    if job.pause_at_step:
        samples = Interrupted(samples, stage, job.pause_at_step, count)
    counted = Counted(Poisoned(samples, job.poisoned, job.poison), count)
    objective = {"objective": Broken(stage, job.flip, job.poison, counted)} if job.flip or job.poison else {}
    if job.slow_rank is not None and stage.rank == job.slow_rank:
        objective = {"objective": Slow()}
    domains = {"domains": ("odd", "even"), "domain": lambda _, index: ("even", "odd")[index % 2]} if job.domains else {}
    more = {"failures": lambda: failures_so_far(stage), **objective, **domains}
    return train(stage, Task(pretrain, job.start, job.end_tokens, lambda: counted, held_out, **more))
