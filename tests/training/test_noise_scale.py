"""The noise scale is what its definition says, is measured without a trace in what is trained, and in every layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from athanor.training.checkpoints import FINAL
from athanor.training.noise_scale import estimates
from tests.training import processes
from tests.training.layouts import LAYOUTS, Sizes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS = 12


def test_estimates_find_the_signal_and_the_noise_that_made_the_gradients() -> None:
    random = np.random.default_rng(0)
    truth, noise, small, big = random.normal(size=1000), 30.0, 64, 1024

    def square(tokens: int) -> float:
        gradient = truth + random.normal(size=truth.size) * noise / np.sqrt(tokens)
        return float(gradient @ gradient)

    found = np.mean([estimates(small, square(small), big, square(big)) for _ in range(2000)], axis=0)
    assert found == pytest.approx([truth @ truth, noise**2 * truth.size], rel=0.03)


def _scales(folder: Path) -> list[float]:
    [spool] = (folder / "tracking").iterdir()
    points = [json.loads(line)["payload"] for line in spool.read_text().splitlines()]
    return [point["noise_scale_tokens"] for point in points if "noise_scale_tokens" in point]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [folder / "curve.jsonl", *(folder / FINAL).iterdir()]}


def test_measuring_leaves_no_trace_in_what_is_trained(fresh: Path, tmp_path: Path) -> None:
    plain, measured = (
        Job(tmp_path / name, recipe(2, expert=2, noise_scale_every_steps=every), fresh, STEPS * BATCH)
        for name, every in (("plain", 0), ("measured", 2))
    )
    for job in (plain, measured):
        assert processes.run(job, 2) == [0, 0], processes.log(job)
    assert _files(measured.folder) == _files(plain.folder)
    assert _scales(plain.folder) == []
    assert _scales(measured.folder) and all(scale > 0 for scale in _scales(measured.folder))


@pytest.mark.parametrize(
    ("base", "name", "tolerance"),
    [
        ("one rank", "pipeline 2", 1e-4),
        ("one rank", "tensor 2", 0.05),  # without the norms and the router, which sequence parallelism sums later
        ("data 2", "data 2, overlap", 1e-6),
        ("data 2", "expert 2, overlap", 0.05),  # without the experts
    ],
)
def test_layouts_measure_the_same_scale(base: str, name: str, tolerance: float, fresh: Path, tmp_path: Path) -> None:
    found = []
    for sizes in (LAYOUTS.get(base, Sizes(1, {}, "")), LAYOUTS[name]):
        micro_batch = 4 if base == "one rank" else 2
        made = recipe(sizes.ranks, parallel={**sizes.parallel, "micro_batch_size": micro_batch}, noise_scale_every_steps=2)
        job = Job(tmp_path / str(len(found)), made, fresh, STEPS * BATCH)
        assert processes.run(job, sizes.ranks) == [0] * sizes.ranks, processes.log(job)
        found.append(_scales(job.folder))
    assert len(found[0]) == STEPS / 2
    assert found[1] == pytest.approx(found[0], rel=tolerance)
