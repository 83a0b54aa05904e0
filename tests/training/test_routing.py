"""Expert load is counted once for every token and expert, in every layout, and goes on where a killed run's checkpoint was."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from athanor.recipe.schema.choices import Recompute
from athanor.training.checkpoints import FINAL
from athanor.training.routing import BINS, EXPERT_LOAD
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 6
LAYERS, EXPERTS, EACH = 2, 4, 2


def _logged(folder: Path) -> list[dict[str, float]]:
    [spool] = (folder / "tracking").iterdir()
    points = [json.loads(line)["payload"] for line in spool.read_text().splitlines()]
    return [point for point in points if "router_entropy" in point]


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [
        (1, {}),
        (1, {"recompute": Recompute.FULL}),
        (2, {"expert": 2}),
        (2, {"pipeline": 2}),
        (2, {"tensor": 2}),
        (2, {"context": 2}),
    ],
    ids=str,
)
def test_every_token_counts_once(ranks: int, parallel: dict[str, int], fresh: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", recipe(ranks, parallel=parallel), fresh, STEPS * BATCH)
    assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    history = np.load(job.folder / FINAL / EXPERT_LOAD)
    assert history.shape == (BINS, LAYERS, EXPERTS)
    assert (history.sum(axis=(0, 2)) == STEPS * BATCH * EACH).all()
    assert (history.sum(axis=(1, 2)) > 0).sum() == STEPS, "each step has a bin of its own"
    for point in _logged(job.folder):
        assert point["dropped_assignments"] == 0
        assert point["dead_experts"] in range(EXPERTS)
        assert 1 <= point["expert_load_max_over_mean"] <= EXPERTS
        assert 0.5 * math.log(EXPERTS) < point["router_entropy"] <= math.log(EXPERTS)


def test_a_killed_run_goes_on_counting(fresh: Path, tmp_path: Path) -> None:
    undisturbed, killed = (Job(tmp_path / name, recipe(1), fresh, 7 * BATCH) for name in ("undisturbed", "killed"))
    assert processes.run(undisturbed) == [0], processes.log(undisturbed)
    stopped = Job(killed.folder, killed.recipe, killed.start, killed.end_tokens, pause_at_step=6)
    ranks = processes.start(stopped, 1)
    processes.wait_for([stopped.folder / "paused-0"], ranks)
    processes.kill(ranks)
    assert processes.run(killed) == [0], processes.log(killed)
    files = [(job.folder / FINAL / EXPERT_LOAD).read_bytes() for job in (undisturbed, killed)]
    assert files[0] == files[1]
