"""The four stages as a rule runs them: from input folders to files, counters and metrics."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.artifacts.files import write_json
from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, StageError, StageRun, Stopped
from athanor.data.documents import Document, JsonlWriter
from athanor.data.token_store import TokenWriter, write_token_bytes
from athanor.evaluation.harness import LAUNCHER, OFFLINE
from athanor.evaluation.scores import read_scores
from athanor.recipe.schema.choices import Suite
from athanor.recipe.schema.recipe import Evaluate, Recipe, Source
from athanor.recipe.schema.training import Model
from athanor.stages import baselines, evaluate, report
from tests.evaluation.tiny import write_model

VOCABULARY = 320


@pytest.fixture(autouse=True)
def environment_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OFFLINE, "HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, "")
    for name in LAUNCHER:  # as under a launcher that gave the stage one rank
        monkeypatch.setenv(name, "1" if name.endswith("WORLD_SIZE") else "0")


def artifact(folder: Path, stage: str, instance: str, counters: Mapping[str, int | str] | None = None) -> Input:
    folder.mkdir(parents=True, exist_ok=True)
    result = Result(stage, instance, f"{abs(hash(instance)):016x}"[:16], {}, (), counters or {})
    return Input(folder, Manifest(result, Provenance("", 1, 0.0, 0.0, "", "")))


def recipe() -> Recipe:
    made = Recipe(name="tiny", model=Model(vocab_size=VOCABULARY, max_sequence_length=64))
    for name in ("molecules", "prose"):
        made.data.sources[name] = Source(domain=name, shards=1)
        made.pretrain.mixture[name] = 1.0
    made.pretrain.sequence_length, made.pretrain.validation_tokens = 16, 64
    made.evaluate = Evaluate(suites=[Suite.HELD_OUT_PERPLEXITY, Suite.MOLECULE_CHOICE], limit=4, batch_size=4)
    return made


def stage_run(folder: Path, stage: str, instance: str, inputs: Mapping[str, Input]) -> StageRun:
    folder.mkdir(parents=True, exist_ok=True)
    return StageRun(recipe(), stage, instance, "0" * 16, folder, inputs)


def fetched(folder: Path, name: str, documents: list[Document]) -> Input:
    made = artifact(folder / name, "fetch", name)
    for file, part in (("train-00000-of-00001.jsonl.gz", documents[10:]), ("held_out.jsonl.gz", documents[:10])):
        with JsonlWriter(made.folder / file) as writer:
            for document in part:
                writer.write(document)
    return made


def tokenized(folder: Path, instance: str, tokens: Iterator[int], count: int) -> Input:
    made = artifact(folder / instance, "tokenize", instance)
    with TokenWriter(made.folder, VOCABULARY) as writer:
        writer.write([[next(tokens) for _ in range(count)]])
    write_token_bytes(made.folder, [1] * VOCABULARY)
    return made


@pytest.fixture
def evaluate_inputs(tmp_path: Path) -> dict[str, Input]:
    model = artifact(tmp_path / "export", "export", "400K", {"step": 7})
    write_model(model.folder / "model")
    molecules = [Document(f"m{n}", f"alkane number {n}\n{'C' * n}O", f"{'C' * n}O") for n in range(1, 30)]
    prose = [Document(f"p{n}", f"the lazy dog {n}", "") for n in range(30)]
    return {
        "model": model,
        "molecules": fetched(tmp_path, "molecules", molecules),
        "prose": fetched(tmp_path, "prose", prose),
    }


def test_evaluate_writes_scores_and_suites(tmp_path: Path, evaluate_inputs: dict[str, Input]) -> None:
    run = stage_run(tmp_path / "evaluate", "evaluate", "400K", evaluate_inputs)
    outcome = evaluate.run(run)
    assert not torch.distributed.is_initialized()
    scores = read_scores(run.folder / "scores.json")
    assert {score.task for score in scores} == {"held_out_molecules", "held_out_prose", "molecule_choice"}
    assert outcome.metrics["molecule_choice/acc"] == next(s.value for s in scores if s.metric == "acc")
    assert outcome.counters["molecule_choice.questions"] == 4
    assert {"scores.json", "suites/molecule_choice.yaml", "suites/README.md"} <= set(outcome.files)
    assert all((run.folder / name).is_file() and "cache" not in name for name in outcome.files)


def test_evaluate_asked_to_stop_raises_stopped(tmp_path: Path, evaluate_inputs: dict[str, Input]) -> None:
    run = stage_run(tmp_path / "evaluate", "evaluate", "400K", evaluate_inputs)
    run._stop.set()
    with pytest.raises(Stopped, match="finished suites are kept"):
        evaluate.run(run)


def test_evaluate_without_molecules_tells_the_way_out(tmp_path: Path, evaluate_inputs: dict[str, Input]) -> None:
    del evaluate_inputs["molecules"]
    with pytest.raises(StageError, match=r"leave the suite out of evaluate\.suites"):
        evaluate.run(stage_run(tmp_path / "evaluate", "evaluate", "400K", evaluate_inputs))


def test_baselines_measure_each_domain_on_its_held_out_windows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = iter(generator.integers(0, 50, size=10_000).tolist())
    cycle = (n % 50 for n in range(10_000))
    inputs = {
        f"{name}-{part}": tokenized(tmp_path, f"{name}-{part}", tokens, 2000 if part == "0" else 100)
        for name, tokens in (("prose", noise), ("molecules", cycle))
        for part in ("0", "held_out")
    }
    outcome = baselines.run(stage_run(tmp_path / "baselines", "baselines", "ngram", inputs))
    losses = json.loads((tmp_path / "baselines" / "baselines.json").read_text())
    assert losses["prose"]["unigram"] == pytest.approx(np.log(50), abs=0.1)
    assert losses["molecules"]["bigram"] < 0.2 < losses["molecules"]["unigram"]
    assert losses["prose"]["tokens"] == outcome.counters["prose.tokens"] == 64
    assert outcome.files == ("baselines.json",)


def test_report_joins_the_campaign(tmp_path: Path, evaluate_inputs: dict[str, Input]) -> None:
    inputs: dict[str, Input] = {}
    for label, tokens, loss in (("200K", 200_000, 5.0), ("400K", 400_000, 4.0), ("shuffled", 400_000, 6.0)):
        inputs[label] = artifact(tmp_path / label, "pretrain", label, {"tokens": tokens})
        points = [{"tokens": t, "loss": loss, "lr": 1e-3} for t in range(tokens - 100_000, tokens, 10_000)]
        (tmp_path / label / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
        write_json(
            tmp_path / label / "validation.json",
            {"prose": {"nats_per_token": loss, "tokens": 64, "bits_per_byte": 2.0}},
        )
    inputs["baselines"] = artifact(tmp_path / "baselines", "baselines", "ngram")
    write_json(tmp_path / "baselines" / "baselines.json", {"prose": {"unigram": 6.5, "bigram": 4.5, "tokens": 64}})
    for label in ("untrained", "400K"):
        run = stage_run(tmp_path / f"evaluate-{label}", "evaluate", label, evaluate_inputs)
        evaluate.run(run)
        inputs[f"scores-{label}"] = artifact(run.folder, "evaluate", label)

    outcome = report.run(stage_run(tmp_path / "report", "report", "campaign", inputs))
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    assert found["domains"][0]["margins"] == {"bigram": 0.5, "unigram": 2.5, "shuffled": 2.0}
    assert {row["gain"] for row in found["scores"]} == {0.0}  # the same model twice
    assert outcome.metrics["prose/below_bigram"] == 0.5
    assert {"figures/loss.svg", "figures/validation.svg", "figures/scores.svg", "summary.html", "results.json"} == set(
        outcome.files
    )
