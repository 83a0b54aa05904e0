"""Training of a reward model through DeepSpeed, experts and all: it learns, alike under ZeRO, and goes on to the last bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.artifacts.files import write_json
from athanor.artifacts.run import Input, Outcome, StageRun
from athanor.data.documents import JsonlWriter
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.post_training import Reward, RewardTraining
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Checkpoint, Model, Parallel, Zero
from athanor.rewards.polar.model import marked_tokenizer, reward_model, saved_marks
from athanor.rewards.polar.pairs import TripleReader, pair_loss
from tests.data.conftest import input_of
from tests.rewards.polar.conftest import ranks as ranked
from tests.rewards.polar.conftest import triples, write_backbone, write_turned
from tests.training import reward_program as program
from tests.training.reward_program import RewardJob

LENGTH, PAIRS, STEPS, RATE = 64, 16, 32, 5e-3
EARLY = 6  # steps over which rounding stays rounding; later another expert may be chosen for it
ALIKE = 2e-5  # nats over these, in fp32; measured below 1e-6 with stages 0 and 2 and a loop of torch, 4.5e-6 with stage 3
FILES = ("curve.jsonl", "validation.json", "accuracy.json", "model/model.safetensors", "model/config.json")


def recipe(stage: int = 1, **changed: Any) -> Recipe:
    """Trains on pairs of sequences of at most LENGTH tokens, on two ranks."""
    settings = RewardTraining(
        **{
            "token_budget": STEPS * PAIRS * LENGTH,
            "sequence_length": LENGTH,
            "batch_tokens": PAIRS * LENGTH,
            "lr": RATE,
            "min_lr": RATE,
            "validation_tokens": 16 * LENGTH,
            "log_every_steps": 1,
            "parallel": Parallel(ranks=2, micro_batch_size=4),
            "checkpoint": Checkpoint(every_tokens=3 * PAIRS * LENGTH),
            "zero": Zero(stage=stage),
            **changed,
        }
    )
    return Recipe(seed=3, model=Model(max_sequence_length=256), reward=Reward(prefixes=1, pretrain=settings, tune=settings))


def made(name: str, folder: Path) -> Input:
    """An input whose bytes are in `folder`."""
    return input_of(StageRun(Recipe(), name, "model", f"{name}-0", folder, {}), Outcome(()))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    root = tmp_path_factory.mktemp("reward")
    write_backbone(root / "start" / "model", experts=4)
    for folder, files in (("triples", {"train": 200, "test": 60}), ("ranks", {"train": 200, "aside": 40})):
        (root / folder).mkdir()
        for number, (name, count) in enumerate(files.items()):
            with JsonlWriter(root / folder / f"{name}.jsonl.gz") as writer:
                for row in triples(count, number) if folder == "triples" else ranked(count, number):
                    writer.write(row)
    write_json(root / "triples" / "baselines.json", {"bigrams": {"triples": 60, "rate": 0.5, "low": 0.4, "high": 0.6}})
    return {name: made(name, root / name) for name in ("start", "triples", "ranks")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Input]) -> RewardJob:
    """An undisturbed run on the triples, made once."""
    job = RewardJob(tmp_path_factory.mktemp("whole"), recipe(), "reward_pretrain", inputs)
    assert program.run(job, 2) == [0, 0], (job.folder / "rank-0.log").read_text()
    return job


def losses(job: RewardJob) -> list[float]:
    return [json.loads(line)["loss"] for line in (job.folder / "curve.jsonl").read_text().splitlines()]


def test_model_with_experts_learns_to_tell_unseen_texts_apart(trained: RewardJob) -> None:
    job = trained
    told, outcome = (json.loads((job.folder / f"{name}.json").read_text()) for name in ("accuracy", "outcome"))
    unseen = told["unseen_policies"]
    assert unseen["triples"] == 60 and unseen["low"] > told["untrained"]["bigrams"]["rate"]
    assert outcome["metrics"]["unseen_policies/accuracy"] == unseen["rate"]
    assert outcome["metrics"]["unseen_policies/untrained/bigrams"] == 0.5
    start, end = (json.loads((job.folder / f"validation{at}.json").read_text())["unseen_policies"] for at in ("_start", ""))
    assert start["tokens"] == end["tokens"] == 16 and end["nats_per_token"] < start["nats_per_token"] - 0.1
    spool = (job.folder / "tracking" / "001.jsonl").read_text()
    assert '"unseen_policies/accuracy_low"' in spool and '"reward_pretrain-model"' in spool


@pytest.mark.parametrize("stage", [0, 3])
def test_zero_stages_train_experts_alike(trained: RewardJob, inputs: dict[str, Input], tmp_path: Path, stage: int) -> None:
    job = RewardJob(tmp_path / "run", recipe(stage, token_budget=EARLY * PAIRS * LENGTH), "reward_pretrain", inputs)
    assert program.run(job, 2) == [0, 0], (job.folder / "rank-0.log").read_text()
    assert losses(job) == pytest.approx(losses(trained)[:EARLY], abs=ALIKE, rel=0)


def test_backbone_with_a_tokenizer_of_its_own_reads_the_triples_as_texts(
    trained: RewardJob, inputs: dict[str, Input], tmp_path: Path
) -> None:
    """The start again, with its words in the opposite order: other ids, the same texts, the same losses."""
    turned = made("start", tmp_path / "turned")
    write_turned(inputs["start"].folder / "model", turned.folder / "model")
    settings = recipe(token_budget=EARLY * PAIRS * LENGTH)
    job = RewardJob(tmp_path / "run", settings, "reward_pretrain", {**inputs, "start": turned, "speaker": inputs["start"]})
    assert program.run(job, 2) == [0, 0], (job.folder / "rank-0.log").read_text()
    assert losses(job) == pytest.approx(losses(trained)[:EARLY], abs=ALIKE, rel=0)
    misread = RewardJob(tmp_path / "misread", settings, "reward_pretrain", {**inputs, "start": turned})
    assert program.run(misread, 2) == [0, 0]
    assert losses(misread)[:EARLY] != pytest.approx(losses(trained)[:EARLY], abs=100 * ALIKE, rel=0)


def test_loop_of_torch_alone_has_the_same_losses(trained: RewardJob, inputs: dict[str, Input]) -> None:
    """AdamW on the same pairs in the same order, one step after the other: what benchmarks/polar.py trains by."""
    folder = inputs["start"].folder / "model"
    marked = marked_tokenizer(folder, LENGTH, fine_tuned=False)
    model: Any = reward_model(folder, marked, 3)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    rest = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    reader, found = TripleReader(triples(200, 0), marked.template, marked.padding, 3), []
    for step in range(EARLY):
        optimizer.zero_grad()
        loss = pair_loss(model, reader.batch(range(step * PAIRS, (step + 1) * PAIRS))).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(float(loss.detach()))
    assert losses(trained)[:EARLY] == pytest.approx(found, abs=ALIKE, rel=0)


def test_stopped_and_started_again_ends_in_the_same_bytes(trained: RewardJob, inputs: dict[str, Input], tmp_path: Path) -> None:
    whole, job = trained, RewardJob(tmp_path / "run", recipe(), "reward_pretrain", inputs, stop_after=4 * PAIRS)
    assert program.run(job, 2) == [75, 75], (job.folder / "rank-0.log").read_text()
    assert not (job.folder / "accuracy.json").exists()
    assert program.run(replace(job, stop_after=0), 2) == [0, 0], (job.folder / "rank-0.log").read_text()
    assert "continuing from" in (job.folder / "rank-0.log").read_text()
    for name in FILES:
        assert (job.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    (job.folder / "accuracy.json").unlink()  # killed behind the last save: the measurement alone is made again
    assert program.run(replace(job, stop_after=0), 2) == [0, 0]
    for name in FILES:
        assert (job.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_fine_tuning_goes_on_from_the_head_and_ranks_questions_put_aside(
    trained: RewardJob, inputs: dict[str, Input], tmp_path: Path
) -> None:
    before = trained
    settings = recipe(token_budget=25 * PAIRS * LENGTH, precision=Precision.FP32)
    job = RewardJob(tmp_path / "tuned", settings, "reward_tune", {**inputs, "start": made("start", before.folder)})
    assert program.run(job, 2) == [0, 0], (job.folder / "rank-0.log").read_text()
    told = json.loads((job.folder / "accuracy.json").read_text())
    assert set(told) == {"unseen_policies", "ranks_aside", "untrained"}
    assert told["ranks_aside"]["rate"] > 0.75 and told["ranks_aside"]["triples"] == 40
    assert saved_marks(job.folder / "model").template.between, "asks with a line break"
    first = json.loads((job.folder / "validation_start.json").read_text())["unseen_policies"]["nats_per_token"]
    assert first < 0.69 - 0.1, "the head that told policies apart is there from the first step"
