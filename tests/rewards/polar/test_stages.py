"""Stages `trajectories` and `triples`: one plan for all models, nothing on both sides of the split, the same after a kill."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from athanor.artifacts.run import Input, Outcome, StageError, StageRun, Stopped
from athanor.data.documents import HELD_OUT_FILE, Document, JsonlWriter, read_documents, training_file
from athanor.models.folder_files import MODEL_FOLDER, digest
from athanor.recipe.reward import roster
from athanor.recipe.schema.post_training import Reward
from athanor.recipe.schema.recipe import Data, Recipe, Source
from athanor.recipe.schema.training import Model, Pretrain
from athanor.rewards.polar.triples import Triple
from athanor.stages import backbone, trajectories, triples
from athanor.stages.roster import plan, tokenizer_of
from tests.data.conftest import input_of
from tests.rewards.polar.conftest import write_backbone

LABELS = ["100K", "200K", "300K", "1M"]
REWARD = {"prefixes": 12, "test_prefixes": 8, "shortest_prefix": 2, "longest_prefix": 6, "max_new_tokens": 20, "shortest_text": 4}


class Campaign:
    """Stages of one recipe in a folder, over four models and two sources."""

    def __init__(self, root: Path, models: dict[str, Input], documents: dict[str, Input], **changed: object) -> None:
        sources = {"x": Source(shards=2), "y": Source()}
        self.recipe = Recipe(
            seed=3,
            data=Data(sources=sources),
            model=Model(max_sequence_length=256),
            pretrain=Pretrain(token_budget=10**6, milestone_tokens=[10**5, 2 * 10**5, 3 * 10**5], mixture={"x": 2, "y": 1}),
            reward=Reward(**{**REWARD, "temperatures": [0.8, 1.2], **changed}),  # type: ignore[arg-type]
        )
        self.root, self._models, self._documents = root, models, documents

    def stage(self, name: str, label: str, **inputs: Input) -> StageRun:
        folder = self.root / name / label
        folder.mkdir(parents=True, exist_ok=True)
        return StageRun(self.recipe, name, label, f"{name}-{label}", folder, {**self._documents, **inputs})

    def writing(self, label: str) -> StageRun:
        return self.stage("trajectories", label, model=self._models[label])

    def make_triples(self) -> tuple[StageRun, Outcome]:
        written = {}
        for label in LABELS:
            stage = self.writing(label)
            written[f"trajectories-{label}"] = input_of(stage, trajectories.run(stage))
        stage = self.stage("triples", "polar", model=self._models["1M"], **written)
        return stage, triples.run(stage)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    found = {}
    for number, label in enumerate(LABELS):
        folder = tmp_path_factory.mktemp(label)
        write_backbone(folder / "model", experts=0, seed=number)
        found[label] = input_of(StageRun(Recipe(), "export", label, f"weights-{label}", folder, {}), Outcome(()))
    return found


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    found = {}
    for source, shards in (("x", 2), ("y", 1)):
        folder, random = tmp_path_factory.mktemp(source), np.random.default_rng(shards)
        for name in [*(training_file(shard, shards) for shard in range(shards)), HELD_OUT_FILE]:
            with JsonlWriter(folder / name) as writer:
                for number in range(10):
                    words = " ".join(f"w{word}" for word in random.integers(0, 37, size=random.integers(10, 30)))
                    writer.write(Document(f"{name}-{number}", words, ""))
        found[source] = input_of(StageRun(Recipe(), "fetch", source, source, folder, {}), Outcome(()))
    return found


def read(path: Path) -> list[Triple]:
    import gzip

    with gzip.open(path, "rt") as lines:
        return [Triple(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(line).items()}) for line in lines]


def test_triples_have_neither_policies_nor_documents_on_both_sides(
    tmp_path: Path, models: dict[str, Input], documents: dict[str, Input]
) -> None:
    campaign = Campaign(tmp_path, models, documents)
    stage, outcome = campaign.make_triples()
    train, test = read(stage.folder / triples.TRAIN_FILE), read(stage.folder / triples.TEST_FILE)
    assert (len(train), len(test)) == (outcome.counters["train"], outcome.counters["test"]) and train and test
    sides = [{t.policy.split("@")[0] for t in side} | {t.other_policy.split("@")[0] for t in side} for side in (train, test)]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(LABELS)
    for side, held_out in ((train, False), (test, True)):
        assert all(t.policy.split("@")[0] != t.other_policy.split("@")[0] for t in side)
        for triple in side:
            source, _, name = triple.prefix_id.partition("/")
            file = name.rpartition("-")[0]
            assert (file == HELD_OUT_FILE) == held_out
            text = next(d.text for d in read_documents(documents[source].folder / file) if d.id == name)
            tokenizer = tokenizer_of(models["1M"].folder / "model")
            assert tuple(tokenizer.encode(text, add_special_tokens=False)[: len(triple.prefix)]) == triple.prefix
    rates = json.loads((stage.folder / triples.BASELINES_FILE).read_text())
    assert set(rates) == {"bigrams", "embeddings", "length"} and rates["length"]["rate"] == 0.5
    assert outcome.metrics["untrained_accuracy/bigrams"] == rates["bigrams"]["rate"]


def test_sources_share_prefixes_by_the_mixture_and_every_model_has_the_same_plan(
    tmp_path: Path, models: dict[str, Input], documents: dict[str, Input]
) -> None:
    campaign = Campaign(tmp_path, models, documents)
    plans = [plan(campaign.writing(label), tokenizer_of(models[label].folder / "model")) for label in LABELS]
    assert all(found == plans[0] for found in plans)
    names = [item.prefix.id.partition("/")[0] for item in plans[0].train]
    assert (names.count("x"), names.count("y")) == (8, 4)
    assert roster(campaign.recipe) == LABELS


def test_stopped_trajectories_go_on_and_end_in_the_same_bytes(
    tmp_path: Path, models: dict[str, Input], documents: dict[str, Input]
) -> None:
    whole, torn = Campaign(tmp_path / "whole", models, documents), Campaign(tmp_path / "torn", models, documents)
    files = trajectories.run(whole.writing("200K")).files
    stage = torn.writing("200K")
    stage._stop.set()
    with pytest.raises(Stopped, match=r"trajectories of 200K after \d+ of \d+ prefixes; finished shards are kept"):
        trajectories.run(stage)
    assert list((stage.folder / trajectories.SHARDS).rglob("shard-*.jsonl"))
    assert trajectories.run(torn.writing("200K")).files == files
    for file in files:
        assert (torn.writing("200K").folder / file).read_bytes() == (whole.writing("200K").folder / file).read_bytes()


def test_texts_too_short_for_triples_are_an_error_that_names_the_key(
    tmp_path: Path, models: dict[str, Input], documents: dict[str, Input]
) -> None:
    with pytest.raises(StageError, match=r"none of \d+ triples for train is left \(\d+ short\); lower reward\.shortest_text=20"):
        Campaign(tmp_path, models, documents, shortest_text=20, max_new_tokens=6).make_triples()


def test_backbone_is_kept_as_it_was_locked_and_refused_when_it_changed(dense: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(dense, source)
    locked = digest(source, lambda done, total: None)
    recipe = Recipe(reward=Reward(backbone=str(source), backbone_sha256=locked))
    stage = StageRun(recipe, "backbone", "reward", "0" * 16, tmp_path / "kept", {})
    (stage.folder / MODEL_FOLDER).mkdir(parents=True)
    (stage.folder / MODEL_FOLDER / ".model.safetensors.writing").write_bytes(b"half")  # of a killed run
    outcome = backbone.run(stage)
    assert f"{MODEL_FOLDER}/model.safetensors" in outcome.files
    assert digest(stage.folder / MODEL_FOLDER, lambda done, total: None) == locked
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    other = StageRun(recipe, "backbone", "reward", "1" * 16, tmp_path / "other", {})
    other.folder.mkdir()
    with pytest.raises(StageError, match=r"reward\.backbone_sha256 is [0-9a-f]{64}: the folder changed"):
        backbone.run(other)
