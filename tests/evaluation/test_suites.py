"""lm-eval on a tiny random model: scores, resuming, and the same numbers from lm-eval's own command."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from athanor.evaluation import suites
from athanor.evaluation.scores import Score, read_scores
from athanor.evaluation.suites import Corpus, Finished, evaluate, suite_files
from athanor.recipe.schema.choices import Suite
from athanor.recipe.schema.recipe import Evaluate
from tests.evaluation.tiny import write_model

MAX_SEQUENCE_LENGTH = 64
SETTINGS = Evaluate(suites=list(Suite), limit=12, batch_size=8, seed=1)


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    entity: str = ""


def corpora() -> dict[str, Corpus]:
    molecules = [Doc(f"m{n}", f"alkane number {n}\n{'C' * n}O", f"{'C' * n}O") for n in range(1, 30)]
    prose = [Doc(f"p{n}", f"the quick brown fox {n} " * (n % 7 + 1)) for n in range(30)]
    return {
        "molecules": Corpus("molecules", lambda: molecules, lambda: [Doc("t", "alkane number 3\nsomething")]),
        "prose": Corpus("prose", lambda: prose, lambda: []),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def run(model: Path, folder: Path, settings: Evaluate = SETTINGS, on_batch: Callable[[], None] = lambda: None) -> Finished:
    return evaluate(model, folder, corpora(), settings, MAX_SEQUENCE_LENGTH, on_batch)


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, run(model, folder)


def find(scores: tuple[Score, ...], task: str, metric: str) -> Score:
    return next(score for score in scores if (score.task, score.metric) == (task, metric))


def test_evaluate_scores_every_suite_with_errors(finished: tuple[Path, Finished]) -> None:
    folder, result = finished
    assert {score.suite for score in result.scores} == set(Suite)
    assert all(score.n == 12 for score in result.scores)
    assert all(math.isfinite(score.value) and score.stderr > 0 for score in result.scores)
    assert read_scores(folder / "scores.json") == list(result.scores)
    assert result.counts["molecule_choice.leaked"] == 1


def test_bits_per_byte_is_the_loss_of_the_plain_model(finished: tuple[Path, Finished], model: Path) -> None:
    """Recomputed by hand, with end-of-text before each document and no window: documents here fit the model."""
    folder, result = finished
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    rows = [json.loads(line) for line in (folder / "suites" / "held_out_molecules.jsonl").read_text().splitlines()]
    nats = size = 0.0
    for row in rows:
        tokens = torch.tensor([[tokenizer.eos_token_id, *tokenizer(row["text"])["input_ids"]]])
        assert tokens.shape[1] <= MAX_SEQUENCE_LENGTH + 1
        with torch.no_grad():
            logits = network(tokens[:, :-1]).logits
        nats += torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:], reduction="sum").item()
        size += len(row["text"].encode())
    assert find(result.scores, "held_out_molecules", "bits_per_byte").value == pytest.approx(nats / size / math.log(2), rel=1e-5)


def test_perplexities_and_bits_state_the_same_loss_and_error(finished: tuple[Path, Finished]) -> None:
    _, result = finished
    bits = find(result.scores, "held_out_prose", "bits_per_byte")
    perplexity = find(result.scores, "held_out_prose", "byte_perplexity")
    assert perplexity.value == pytest.approx(2**bits.value)
    assert perplexity.stderr == pytest.approx(perplexity.value * math.log(2) * bits.stderr)


def test_evaluate_again_computes_nothing_and_gives_the_same_files(finished: tuple[Path, Finished], model: Path) -> None:
    folder, result = finished
    before = {name: (folder / name).read_bytes() for name in ("scores.json", *suite_files(folder))}

    def refuse() -> None:
        pytest.fail("a finished suite was run again")

    assert run(model, folder, on_batch=refuse) == result
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert all(not name.endswith(".pyc") for name in before)


def test_evaluate_stopped_between_suites_finishes_with_the_same_scores(
    finished: tuple[Path, Finished], model: Path, tmp_path: Path
) -> None:
    folder, result = finished

    class Stop(Exception):
        pass

    def stop_once_a_suite_is_finished() -> None:
        if list(tmp_path.glob("finished/*.json")):
            raise Stop

    with pytest.raises(Stop):
        run(model, tmp_path, on_batch=stop_once_a_suite_is_finished)
    assert not (tmp_path / "scores.json").exists()
    assert run(model, tmp_path) == result
    assert (tmp_path / "scores.json").read_bytes() == (folder / "scores.json").read_bytes()
    assert suite_files(tmp_path) == suite_files(folder)


def test_evaluate_one_suite_needs_no_other_corpus(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "leaked", lambda *_: pytest.fail("training documents were read"))
    result = run(model, tmp_path, replace(SETTINGS, suites=[Suite.MMLU_DEV], limit=4))
    assert [score.metric for score in result.scores] == ["acc"]


@pytest.mark.slow
def test_lm_evals_own_command_gives_the_same_scores(finished: tuple[Path, Finished], model: Path, tmp_path: Path) -> None:
    folder, result = finished
    tasks = sorted({score.task for score in result.scores})
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}", "--device", "cpu",
        "--include_path", str(folder / "suites"), "--tasks", ",".join(tasks), "--batch_size", "8",
        "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = {**os.environ, **offline, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(written.read_text())["results"]
    for score in result.scores:
        assert theirs[score.task][f"{score.metric},none"] == pytest.approx(score.value, rel=1e-5), score
        if score.suite is not Suite.HELD_OUT_PERPLEXITY:
            assert theirs[score.task][f"{score.metric}_stderr,none"] == pytest.approx(score.stderr, rel=1e-5)
