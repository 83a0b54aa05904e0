"""One rank of a small training of a reward model, as its stage runs it. Ends like a stage: 0 done, 75 stopped."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from athanor.artifacts.files import write_json
from athanor.artifacts.run import STOPPED, Input, StageRun, Stopped
from athanor.recipe.schema.recipe import Recipe
from athanor.tracking.spool import NullSpool, Spool
from tests import ranks as warm


@dataclass(frozen=True)
class RewardJob:
    """What all ranks of a run are told."""

    folder: Path
    recipe: Recipe
    stage: str  # reward_pretrain or reward_tune
    inputs: dict[str, Input]
    stop_after: int = 0  # a sample whose reading asks every rank to stop


def run(job: RewardJob, ranks: int = 1) -> list[int]:
    """Exit codes of all ranks, once they have ended; their output goes to `rank-K.log` in the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    path = job.folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    return warm.wait(warm.start(main, str(path), logs=[job.folder / f"rank-{rank}.log" for rank in range(ranks)]))


def main(path: str) -> int:
    """Run one rank."""
    from athanor.stages import reward_pretrain, reward_tune
    from athanor.training.deepspeed.pairs import PairBatches
    from athanor.training.deepspeed.task import Batch

    job: RewardJob = pickle.loads(Path(path).read_bytes())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    spool = Spool(job.folder / "tracking" / "001.jsonl") if rank == 0 else NullSpool()
    stage = StageRun(job.recipe, job.stage, "model", "0" * 16, job.folder, job.inputs, rank, world_size, spool=spool)
    stage.listen_for_stop()
    honest = PairBatches.batch

    def watched(batches: PairBatches, samples: Sequence[int]) -> Batch:
        if job.stop_after and samples[-1] >= job.stop_after:
            stage._stop.set()
        return honest(batches, samples)

    PairBatches.batch = watched  # type: ignore[method-assign]
    try:
        outcome = (reward_pretrain if job.stage == "reward_pretrain" else reward_tune).run(stage)
    except Stopped:
        return STOPPED
    if rank == 0:
        write_json(job.folder / "outcome.json", asdict(outcome))
    return 0
