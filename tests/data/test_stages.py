"""The three stages one after another on small local corpora: their contract, and the same bytes after a kill."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from athanor.artifacts.run import Input, Outcome, StageError, StageRun, Stopped
from athanor.data.bpe import load, token_bytes
from athanor.data.documents import HELD_OUT_FILE, read_documents
from athanor.data.sources import reading
from athanor.data.token_store import read_tokens
from athanor.models.folder_files import digest
from athanor.recipe.schema.recipe import Recipe
from athanor.stages import fetch, tokenize, tokenizer
from tests.evaluation.tiny import write_model

InputOf = Callable[[StageRun, Outcome], Input]


class Pipeline:
    """Runs stages in a folder, as the rules would."""

    def __init__(self, root: Path, recipe: Recipe, input_of: InputOf) -> None:
        self.root, self.recipe, self._input_of = root, recipe, input_of

    def stage(self, name: str, instance: str, inputs: dict[str, Input]) -> StageRun:
        folder = self.root / name / instance
        folder.mkdir(parents=True, exist_ok=True)
        return StageRun(self.recipe, name, instance, "0" * 16, folder, inputs)

    def run(self, module: Any, instance: str, inputs: dict[str, Input]) -> tuple[Outcome, Input]:
        stage = self.stage(module.__name__.rsplit(".", 1)[-1], instance, inputs)
        outcome = module.run(stage)
        assert all((stage.folder / file).is_file() for file in outcome.files)
        return outcome, self._input_of(stage, outcome)

    def run_all(self) -> dict[str, Outcome]:
        outcomes, documents = {}, {}
        for name in self.recipe.data.sources:
            outcomes[f"fetch/{name}"], documents[name] = self.run(fetch, name, {})
        outcomes["tokenizer/bpe"], bpe = self.run(tokenizer, "bpe", documents)
        for name, source in self.recipe.data.sources.items():
            for part in [*map(str, range(source.shards)), "held_out"]:
                inputs = {"documents": documents[name], "tokenizer": bpe}
                outcomes[f"tokenize/{name}-{part}"], _ = self.run(tokenize, f"{name}-{part}", inputs)
        return outcomes


@pytest.fixture
def pipeline(tmp_path: Path, make_source: Any, make_recipe: Any, input_of: InputOf, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setenv("ATHANOR_PROJECT", str(tmp_path))
    for name in ("x", "y"):
        lines = [json.dumps({"text": f"{name} writes line {n}: {n * n} été <|endoftext|>"}) for n in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = make_recipe({"x": make_source(path="x.jsonl", shards=2), "y-z": make_source(path="y.jsonl")})
    return Pipeline(tmp_path / "store", recipe, input_of)


def files_of(pipeline: Pipeline, outcomes: dict[str, Outcome]) -> dict[str, bytes]:
    return {
        f"{name}/{file}": (pipeline.root / name / file).read_bytes()
        for name, outcome in outcomes.items()
        for file in outcome.files
    }


def test_stages_give_the_documents_back_from_the_tokens(pipeline: Pipeline) -> None:
    outcomes = pipeline.run_all()
    bpe = load(pipeline.root / "tokenizer/bpe")
    for part, file in (
        ("0", "train-00000-of-00002.jsonl.gz"),
        ("1", "train-00001-of-00002.jsonl.gz"),
        ("held_out", HELD_OUT_FILE),
    ):
        texts = [document.text for document in read_documents(pipeline.root / "fetch/x" / file)]
        tokens = read_tokens(pipeline.root / f"tokenize/x-{part}").tolist()
        ends = [i for i, token in enumerate(tokens) if token == 0]
        pieces = [tokens[a + 1 : b] for a, b in zip([-1, *ends], ends, strict=False)]
        assert [bpe.decode(piece, skip_special_tokens=False) for piece in pieces] == texts
        counters = outcomes[f"tokenize/x-{part}"].counters
        assert counters == {
            "tokens": len(tokens),
            "documents": len(texts),
            "bytes": sum(len(t.encode()) for t in texts),
        }


def test_fetch_counters_add_up(pipeline: Pipeline) -> None:
    counters = pipeline.run(fetch, "x", {})[0].counters
    assert int(counters["documents"]) + int(counters["held_out_documents"]) == counters["records"] == 300
    assert len(str(counters["sha256"])) == 64


def test_stages_again_elsewhere_give_the_same_bytes(pipeline: Pipeline, tmp_path: Path, input_of: InputOf) -> None:
    other = Pipeline(tmp_path / "elsewhere", pipeline.recipe, input_of)
    assert files_of(pipeline, pipeline.run_all()) == files_of(other, other.run_all())


def test_stages_over_the_remains_of_a_killed_run_give_the_same_bytes(
    pipeline: Pipeline, tmp_path: Path, input_of: InputOf
) -> None:
    killed = Pipeline(tmp_path / "killed", pipeline.recipe, input_of)
    for name in (
        "fetch/x/scratch/left.jsonl",
        "fetch/x/train-00000-of-00002.jsonl.gz.partial",
        "tokenize/x-0/tokens.bin.partial",
    ):
        (killed.root / name).parent.mkdir(parents=True, exist_ok=True)
        (killed.root / name).write_bytes(b"half a")
    assert files_of(killed, killed.run_all()) == files_of(pipeline, pipeline.run_all())
    assert not list(killed.root.rglob("*.partial"))
    assert not (killed.root / "fetch/x/scratch").exists()


def test_stage_asked_to_stop_stops_and_continues_later(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "REPORT_EVERY_RECORDS", 10)
    stage = pipeline.stage("fetch", "x", {})
    stage._stop.set()
    with pytest.raises(Stopped, match="fetch of x after 10 records"):
        fetch.run(stage)
    assert pipeline.run(fetch, "x", {})[0].counters["records"] == 300
    stage = pipeline.stage("tokenizer", "bpe", {name: pipeline.run(fetch, name, {})[1] for name in ("x", "y-z")})
    stage._stop.set()
    with pytest.raises(Stopped):
        tokenizer.run(stage)


def test_stages_report_progress_to_the_end(pipeline: Pipeline) -> None:
    _, documents = pipeline.run(fetch, "x", {})
    _, others = pipeline.run(fetch, "y-z", {})
    _, bpe = pipeline.run(tokenizer, "bpe", {"x": documents, "y-z": others})
    for part in ("0", "1", "held_out"):
        marks: list[tuple[int, int, str]] = []
        stage = pipeline.stage("tokenize", f"x-{part}", {"documents": documents, "tokenizer": bpe})
        stage.heartbeat.beat = lambda *mark, marks=marks: marks.append(mark)  # type: ignore[method-assign]
        outcome = tokenize.run(stage)
        assert marks[-1] == (outcome.counters["documents"], outcome.counters["documents"], "documents")


@pytest.fixture
def from_weights(pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """The pipeline with `pretrain.init_from`, a folder with a tokenizer of its own."""
    folder = tmp_path / "weights"
    write_model(folder)
    start = {"init_from": str(folder), "init_from_sha256": digest(folder, lambda done, total: None)}
    model = replace(pipeline.recipe.model, vocab_size=320)
    recipe = replace(pipeline.recipe, model=model, pretrain=replace(pipeline.recipe.pretrain, **start))
    return Pipeline(tmp_path / "store", recipe, pipeline._input_of)


def test_weights_bring_their_tokenizer_along(from_weights: Pipeline, tmp_path: Path) -> None:
    outcome, bpe = from_weights.run(tokenizer, "bpe", {})
    assert outcome.counters["vocabulary"] == 300
    for name in outcome.files:
        assert (bpe.folder / name).read_bytes() == (tmp_path / "weights" / name).read_bytes()
    _, documents = from_weights.run(fetch, "x", {})
    encoded, _ = from_weights.run(tokenize, "x-0", {"documents": documents, "tokenizer": bpe})
    assert int(encoded.counters["tokens"]) > 0


def test_tokenizer_of_weights_that_composes_characters_leaves_bytes_as_they_are(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "NFC"}}))
    decomposed = "e\u0301te\u0301"
    encoder = load(tmp_path)
    ids = encoder.encode(decomposed, add_special_tokens=False).ids
    assert encoder.decode(ids) == decomposed
    assert sum(token_bytes(encoder)[i] for i in ids) == len(decomposed.encode())


def test_tokenizer_of_weights_that_changed_is_refused(from_weights: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "weights" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(StageError, match="the folder changed"):
        from_weights.run(tokenizer, "bpe", {})


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        ({"vocab_size": 299}, {}, "its tokenizer has 300 ids, model.vocab_size=299 rows"),
        ({}, {"special_tokens": ["<|end|>", "<|pad|>"]}, r"no token is tokenizer.special_tokens\[0\]='<\|end\|>'"),
    ],
)
def test_tokenizer_of_weights_that_does_not_fit_is_refused(
    from_weights: Pipeline, model: dict[str, Any], words: dict[str, Any], says: str
) -> None:
    recipe = from_weights.recipe
    other = replace(recipe, model=replace(recipe.model, **model), tokenizer=replace(recipe.tokenizer, **words))
    with pytest.raises(StageError, match=says):
        Pipeline(from_weights.root, other, from_weights._input_of).run(tokenizer, "bpe", {})
