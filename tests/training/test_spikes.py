"""A spike is told from noise; its step is logged, skipped or gone back behind, and the samples left out are recorded."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athanor.recipe.schema.choices import SpikeAction
from athanor.recipe.schema.training import Spikes
from athanor.training.checkpoints import FINAL
from athanor.training.spikes import SKIPS, Skip, Skips, SpikeDetector, SpikeError
from tests.training import processes
from tests.training.program import Job
from tests.training.recipes import BATCH, recipe

STEPS, SPIKED, EVERY, A_STEP = 30, 23, 5, 8  # a checkpoint every 5 steps, 8 samples a step
NOISE = tuple(range((SPIKED - 1) * A_STEP, SPIKED * A_STEP))  # the samples of step 23


def _judged(losses: list[float], norms: list[float], **settings: Any) -> list[int]:
    detector = SpikeDetector(Spikes(**settings))
    found = []
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if detector.judge(loss, norm):
            found.append(step)
        detector.learn(loss, norm)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_a_falling_loss_are_no_spikes(seed: int) -> None:
    random = np.random.default_rng(seed)
    losses = [2 + 6 * math.exp(-step / 30) + random.normal(0, 0.05) for step in range(2000)]
    norms = [math.exp(random.normal(0, 0.3)) for _ in range(2000)]
    assert _judged(losses, norms) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("loss", "norm"), [(1.0, 1.0), (0.0, 40.0)])
def test_a_jump_of_loss_or_norm_is_a_spike(seed: int, loss: float, norm: float) -> None:
    random = np.random.default_rng(seed)
    losses = [2 + random.normal(0, 0.05) + loss * (step == 300) for step in range(400)]
    norms = [math.exp(random.normal(0, 0.3)) * (norm if step == 300 else 1.0) for step in range(400)]
    assert _judged(losses, norms) == [300]


def test_a_norm_twice_the_usual_is_none_however_smooth_it_was() -> None:
    assert _judged([2.0] * 200, [0.54 + 0.01 * (step % 2) + 0.69 * (step == 150) for step in range(200)]) == []
    assert _judged([2.0] * 200, [0.54 + 0.01 * (step % 2) + 1.5 * (step == 150) for step in range(200)]) == [150]


def test_losses_that_are_all_zero_are_usual_and_what_rises_above_them_is_not() -> None:
    detector = SpikeDetector(Spikes(window=16))
    for _ in range(32):
        assert detector.judge(0.0, 1.0) == ""
        detector.learn(0.0, 1.0)
    assert "robust deviations above 0.0000" in detector.judge(0.5, 1.0)


def test_a_drop_is_no_spike_and_a_new_level_is_one_only_until_it_is_usual() -> None:
    losses = [3.0] * 100 + [2.0] * 100 + [2.5] * 200
    found = _judged(losses, [1.0] * 400, window=16)
    assert found[0] == 200 and found[-1] < 208


def test_a_detector_that_was_saved_judges_on_as_the_one_that_was_not() -> None:
    random = np.random.default_rng(0)
    whole, first, second = (SpikeDetector(Spikes(window=16)) for _ in range(3))
    for _ in range(40):
        loss, norm = random.normal(2, 0.1), math.exp(random.normal())
        whole.learn(loss, norm)
        first.learn(loss, norm)
    second.resume(json.loads(json.dumps(first.state())))
    for loss in np.linspace(1, 4, 50):
        assert whole.judge(loss, 1.0) == second.judge(loss, 1.0)


def test_too_many_spikes_end_the_stage_and_name_the_key(tmp_path: Path) -> None:
    skips = Skips(tmp_path / SKIPS, Spikes(most=2, window=64))
    for step in (10, 90, 95):  # the first is out of the window by then
        skips.add(Skip(step, "skip", "loss", 9.0, 1.0, 8 * step, 8 * step + 8), write=True)
    with pytest.raises(SpikeError, match=r"3 spikes within 64 steps, the last at step 96.*pretrain\.spikes\.most=2"):
        skips.add(Skip(96, "skip", "loss", 9.0, 1.0, 768, 776), write=True)
    assert len((tmp_path / SKIPS).read_text().splitlines()) == 4


def test_a_skip_behind_the_checkpoint_is_forgotten_and_one_that_led_back_to_it_is_not(tmp_path: Path) -> None:
    skips = Skips(tmp_path / SKIPS, Spikes(most=9))
    skips.add(Skip(10, "skip", "loss", 9.0, 1.0, 72, 80), write=True)
    skips.add(Skip(25, "roll_back", "loss", 9.0, 1.0, 160, 200, back_to=20), write=True)
    skips.add(Skip(24, "skip", "loss", 9.0, 1.0, 224, 232), write=True)
    for step, steps, begin in ((30, [10, 25, 24], 1000), (20, [10, 25], 1000), (12, [10], 1000)):
        again = Skips(tmp_path / SKIPS, Spikes())
        again.resume(step, write=True)
        assert [skip.step for skip in again.all] == steps
        assert again.first_sample(step, begin) == begin
        assert len((tmp_path / SKIPS).read_text().splitlines()) == len(steps)
    assert skips.first_sample(20, 160) == 200


def _job(folder: Path, fresh: Path, action: SpikeAction, ranks: int = 2, **keys: Any) -> Job:
    spikes = Spikes(action=action, window=16, deviations=10)
    made = recipe(ranks, expert=ranks, every_steps=EVERY, spikes=spikes)
    return dataclasses.replace(Job(folder, made, fresh, STEPS * BATCH, garbled=NOISE), **keys)


def _run(job: Job, ranks: int = 2) -> Path:
    assert processes.run(job, ranks) == [0] * ranks, processes.log(job)
    return job.folder


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def _skips(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / SKIPS).read_text().splitlines()]


def _bytes(folder: Path) -> dict[str, bytes]:
    files = [folder / "curve.jsonl", folder / SKIPS, *(folder / FINAL).iterdir()]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Path:
    return _run(_job(tmp_path_factory.mktemp("logged") / "run", fresh, SpikeAction.LOG))


@pytest.mark.slow
def test_log_trains_on_and_says_so(logged: Path) -> None:
    losses = _losses(logged)
    assert len(losses) == STEPS and losses[SPIKED - 1] > losses[SPIKED - 2] + 1
    assert f"spike at step {SPIKED}: loss" in (logged / "rank-0.log").read_text()
    assert "spike" not in (logged / "rank-1.log").read_text()
    assert not (logged / SKIPS).exists()


@pytest.mark.slow
def test_skip_leaves_the_weights_and_records_the_samples(logged: Path, fresh: Path, tmp_path: Path) -> None:
    run = _run(_job(tmp_path / "run", fresh, SpikeAction.SKIP))
    losses = _losses(run)
    assert losses[:SPIKED] == _losses(logged)[:SPIKED], "the same until the step of the spike, which is measured"
    ends = {
        steps: _run(_job(tmp_path / str(steps), fresh, SpikeAction.SKIP, end_tokens=steps * BATCH))
        for steps in (SPIKED - 1, SPIKED)
    }
    before, after = ({p.name: p.read_bytes() for p in (end / FINAL).glob("*.distcp")} for end in ends.values())
    assert before == after, "weights and moments"
    [skip] = _skips(run)
    assert (skip["step"], skip["first_sample"], skip["end_sample"]) == (SPIKED, NOISE[0], NOISE[-1] + 1)
    counters = json.loads((run / "outcome.json").read_text())["counters"]
    assert counters == {"step": STEPS, "tokens": STEPS * BATCH, "samples": STEPS * A_STEP, "samples_skipped": A_STEP}


@pytest.mark.slow
def test_roll_back_goes_on_behind_the_samples_and_a_kill_changes_nothing(fresh: Path, tmp_path: Path) -> None:
    run = _run(_job(tmp_path / "run", fresh, SpikeAction.ROLL_BACK))
    back_to = SPIKED - SPIKED % EVERY
    [skip] = _skips(run)
    assert (skip["back_to"], skip["first_sample"], skip["end_sample"]) == (back_to, back_to * A_STEP, SPIKED * A_STEP)
    assert f"continuing from {run}/checkpoints/step-{back_to:09d}" in (run / "rank-0.log").read_text()
    losses = _losses(run)
    assert len(losses) == STEPS and max(losses[back_to:]) < losses[back_to - 1] + 0.5, "no spike is left"
    counters = json.loads((run / "outcome.json").read_text())["counters"]
    assert counters["samples"] == STEPS * A_STEP + counters["samples_skipped"]

    # Killed between the roll-back and the next checkpoint: step 23 by count, now with other samples.
    job = _job(tmp_path / "killed", fresh, SpikeAction.ROLL_BACK, pause_at_step=SPIKED + 2)
    ranks = processes.start(job, 2)
    processes.wait_for([job.folder / "paused-0", job.folder / "paused-1"], ranks)
    processes.kill(ranks)
    assert _skips(job.folder) == [skip]
    again = _run(dataclasses.replace(job, pause_at_step=0))
    assert "replay" not in (again / "rank-0.log").read_text() and "warning" not in (again / "rank-0.log").read_text()
    assert _bytes(again) == _bytes(run)


@pytest.mark.slow
def test_spike_before_any_checkpoint_goes_back_to_the_start_with_a_fresh_optimizer(fresh: Path, tmp_path: Path) -> None:
    early = tuple(range(19 * A_STEP, 20 * A_STEP))
    made = recipe(1, every_steps=1000, spikes=Spikes(action=SpikeAction.ROLL_BACK, window=16))
    run = _run(Job(tmp_path / "run", made, fresh, 24 * BATCH, garbled=early), 1)
    [skip] = _skips(run)
    assert skip["back_to"] == 0 and skip["end_sample"] == 20 * A_STEP
    shifted = _run(Job(tmp_path / "shifted", made, fresh, 24 * BATCH, first_sample=20 * A_STEP), 1)
    assert _losses(run) == _losses(shifted), "as if training had begun behind the noise"
