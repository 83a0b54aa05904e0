"""One rank of a small run through DeepSpeed. Ends like a stage: 0 done, 75 stopped, 1 with the StageError on stderr."""

import json
import os
import pickle
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from athanor.artifacts.run import STOPPED, StageError, StageRun, Stopped
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Peft, Training, Zero
from athanor.tracking.spool import NullSpool, Spool
from tests import ranks as warm
from tests.ranks import Rank


@dataclass(frozen=True)
class ModuleJob:
    """What all ranks of a run are told."""

    folder: Path
    recipe: Recipe
    start: Path  # a Hugging Face folder
    zero: Zero
    end_tokens: int
    peft: Peft = field(default_factory=Peft)
    stop_after: int = 0  # a sample whose reading asks every rank to stop
    poisoned: int = -1  # a sample whose loss is no number
    steep: int = -1  # a sample whose loss is a number, and its gradient is none
    earlier: Path | None = None  # the checkpoint of an earlier point, to go on from
    roll_back: bool = False  # start behind the newest checkpoint


def settings_of(job: ModuleJob) -> Training:
    """What is trained with: the recipe's section for running text, which has no more keys."""
    return job.recipe.pretrain


def start(job: ModuleJob, ranks: int) -> list[Rank]:
    """One process a rank; their output goes to `rank-K.log` in the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    return warm.start(main, str(path), logs=[job.folder / f"rank-{rank}.log" for rank in range(ranks)])


def run(job: ModuleJob, ranks: int = 1) -> list[int]:
    """Exit codes of all ranks, once they have ended."""
    return warm.wait(start(job, ranks))


def log(job: ModuleJob, rank: int = 0) -> str:
    """What a rank has written so far."""
    return (job.folder / f"rank-{rank}.log").read_text()


def main(path: str) -> int:
    """Run one rank."""
    job: ModuleJob = pickle.loads(Path(path).read_bytes())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    spool = Spool(job.folder / "tracking" / f"{time.time_ns()}.jsonl") if rank == 0 else NullSpool()
    stage = StageRun(job.recipe, "sft", "model", "0" * 16, job.folder, {}, rank, world_size, spool=spool, roll_back=job.roll_back)
    stage.listen_for_stop()
    try:
        outcome = _train(job, stage)
    except Stopped:
        return STOPPED
    except StageError as error:
        print(f"error ({error.kind}): {error}", file=sys.stderr)
        return 1
    if rank == 0:
        result = {"files": outcome.files, "counters": dict(outcome.counters), "metrics": dict(outcome.metrics)}
        (job.folder / "outcome.json").write_text(json.dumps(result))
    return 0


def _train(job: ModuleJob, stage: StageRun) -> "object":
    import torch

    from athanor.training.deepspeed.language import by_domain, fine_tuning
    from athanor.training.deepspeed.loop import train
    from athanor.training.deepspeed.task import Batch
    from tests.training.synthetic import Packed, PackedChains, packed_held_out

    class Watched(PackedChains):
        """Notes the stop where the job asks for one."""

        def sample(self, index: int) -> Packed:
            if job.stop_after and index >= job.stop_after:
                stage._stop.set()
            return super().sample(index)

    if job.recipe.learns_preferences:
        return train(stage, _preference(job, stage))
    task = fine_tuning(settings_of(job), job.zero, job.peft, job.start, Watched, packed_held_out)
    task = by_domain(task, ("even", "odd"), lambda _, index: ("even", "odd")[index % 2])
    task = replace(task, end_tokens=job.end_tokens, earlier=job.earlier)
    if (bad := max(job.poisoned, job.steep)) >= 0:
        honest, tokens = task.loss, PackedChains().sample(bad).tokens[:-1]

        def poisoned(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
            losses = honest(module, batch)
            if not (batch.tensors["tokens"].numpy() == tokens).all(1).any():
                return losses
            return losses * torch.nan if job.poisoned >= 0 else losses + (losses * 0).sqrt()

        task = replace(task, loss=poisoned)
    return train(stage, task)


def _preference(job: ModuleJob, stage: StageRun) -> "object":
    """Chains that go on rightly are better than others."""
    from athanor.data.permutation import permute, stream_key
    from athanor.training.deepspeed.preference import preference_learning
    from tests.training.synthetic import chain_pairs

    def order(sample: int, size: int) -> int:
        if job.stop_after and sample >= job.stop_after:
            stage._stop.set()
        epoch, index = divmod(sample, size)
        return permute(index, size, stream_key(7, epoch))

    task = preference_learning(
        job.recipe.preference, job.start, 0, lambda: chain_pairs(24), order, lambda: {"chains": chain_pairs(7, first=1000)}
    )
    return replace(task, zero=job.zero, end_tokens=job.end_tokens)
