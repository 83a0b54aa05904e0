"""Preference learning: the losses are those of the papers, runs that are stopped end in the same bytes, and it learns."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from athanor.recipe.schema.choices import PreferenceKind
from athanor.recipe.schema.post_training import Preference
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Checkpoint, Parallel, Zero
from athanor.training.checkpoints import FINAL
from tests.training import module_program as program
from tests.training.module_program import ModuleJob
from tests.training.recipes import BATCH, recipe
from tests.training.synthetic import LENGTH, chain_pairs

STEPS = 8
KINDS = [PreferenceKind.DPO, PreferenceKind.KTO]


def _recipe(kind: PreferenceKind, ranks: int = 2, **keys: object) -> Recipe:
    made = recipe(1, model={"num_experts": 4})
    learning = Preference(
        **{
            "kind": kind,
            "beta": 0.5,
            "sequence_length": LENGTH,
            "batch_tokens": BATCH,
            "token_budget": STEPS * BATCH,
            "warmup_tokens": BATCH,
            "lr": 3e-3,
            "parallel": Parallel(ranks=ranks, micro_batch_size=2),
            "checkpoint": Checkpoint(every_tokens=2 * BATCH),
            "validate_every_tokens": 100 * BATCH,
            **keys,
        }  # type: ignore[arg-type]
    )
    return replace(made, preference=learning)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a small MoE of random weights, with a tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from athanor.models.huggingface import configuration

    path = tmp_path_factory.mktemp("huggingface") / "model"
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(configuration(_recipe(KINDS[0]).model, torch.float32, None, None))
    model.save_pretrained(path)
    words = Tokenizer(WordLevel({"<|pad|>": 0, "<|end|>": 1, "a": 2}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<|pad|>", eos_token="<|end|>").save_pretrained(path)
    return path


def _job(path: Path, folder: Path, kind: PreferenceKind, *, steps: int = STEPS, stage: int = 1, **keys: object) -> ModuleJob:
    return ModuleJob(path, _recipe(kind, **keys), folder, Zero(stage=stage), steps * BATCH)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> dict[PreferenceKind, Path]:
    """Undisturbed runs on two ranks."""
    runs = {}
    for kind in KINDS:
        job = _job(tmp_path_factory.mktemp("learnt") / kind.value, folder, kind)
        assert program.run(job, 2) == [0, 0], program.log(job)
        runs[kind] = job.folder
    return runs


def _validation(run: Path, name: str) -> float:
    loss: float = json.loads((run / name).read_text())["chains"]["nats_per_token"]
    return loss


def _log_probs(module: torch.nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Of a whole answer, by a pass of its own, without padding."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = module(input_ids=ids).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return logits[places, ids[0, len(prompt) :]].sum()


def test_dpo_loss_is_that_of_the_paper(folder: Path, learnt: dict[PreferenceKind, Path]) -> None:
    """-log sigma(beta (log p(chosen) / p_ref(chosen) - log p(rejected) / p_ref(rejected))), equation 7 of Rafailov et al. 2023,
    of the trained model against its start, over the held-out pairs."""
    from athanor.models.folder_files import MODEL_FOLDER
    from athanor.training.deepspeed.model_folder import read_model

    run = learnt[PreferenceKind.DPO]
    module, reference = read_model(run / MODEL_FOLDER), read_model(folder)
    losses = []
    with torch.no_grad():
        for pair in chain_pairs(7, first=1000):
            ratios = [
                _log_probs(module, pair.prompt, answer) - _log_probs(reference, pair.prompt, answer)
                for answer in (pair.chosen, pair.rejected)
            ]
            losses.append(-torch.nn.functional.logsigmoid(0.5 * (ratios[0] - ratios[1])))
    assert _validation(run, "validation.json") == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_model_begins_undecided_and_comes_to_prefer_what_was_preferred(
    kind: PreferenceKind, learnt: dict[PreferenceKind, Path]
) -> None:
    """At the start the model is its reference: log 2 for DPO, a half for KTO, whatever the answers."""
    undecided = {PreferenceKind.DPO: math.log(2), PreferenceKind.KTO: 0.5}[kind]
    assert _validation(learnt[kind], "validation_start.json") == pytest.approx(undecided, abs=1e-6)
    assert _validation(learnt[kind], "validation.json") < 0.95 * undecided


def test_losses_of_pairs_are_called_so_in_the_metrics_and_in_mlflow(learnt: dict[PreferenceKind, Path]) -> None:
    run = learnt[PreferenceKind.DPO]
    metrics = json.loads((run / "outcome.json").read_text())["metrics"]
    assert metrics["chains/nats_per_sample"] == _validation(run, "validation.json")
    [spool] = (run / "tracking").glob("*.jsonl")
    assert '"validation/chains/nats_per_sample"' in spool.read_text()
    assert not any("per_token" in text or "per_byte" in text for text in (str(metrics), spool.read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_run_ends_in_the_same_bytes(
    kind: PreferenceKind, folder: Path, learnt: dict[PreferenceKind, Path], tmp_path: Path
) -> None:
    job = replace(_job(tmp_path / "run", folder, kind), stop_after=5 * BATCH // LENGTH)
    assert program.run(job, 2) == [75, 75], program.log(job)
    assert program.run(replace(job, stop_after=0), 2) == [0, 0], program.log(job)
    assert "continuing from" in program.log(job)
    undisturbed = learnt[kind]
    names = ["curve.jsonl", "validation.json", "model/model.safetensors"]
    names += [f"{FINAL}/{path.relative_to(undisturbed / FINAL)}" for path in (undisturbed / FINAL).rglob("*") if path.is_file()]
    for name in names:
        assert (job.folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.parametrize("stage", [0, 3])
def test_dpo_is_the_same_however_states_are_spread(
    stage: int, folder: Path, learnt: dict[PreferenceKind, Path], tmp_path: Path
) -> None:
    job = _job(tmp_path / "run", folder, PreferenceKind.DPO, steps=3, stage=stage)
    assert program.run(job, 2) == [0, 0], program.log(job)
    losses = [[json.loads(line)["loss"] for line in (run / "curve.jsonl").open()][:3] for run in (job.folder, learnt[KINDS[0]])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_likelihood_of_right_answers_counts_beside_and_keeps_them_likely(
    folder: Path, learnt: dict[PreferenceKind, Path], tmp_path: Path
) -> None:
    from athanor.data.permutation import permute, stream_key
    from athanor.models.folder_files import MODEL_FOLDER
    from athanor.training.deepspeed.model_folder import read_model
    from athanor.training.deepspeed.preference import TokenPair

    weight = 2.0
    job = _job(tmp_path / "run", folder, PreferenceKind.DPO, nll_weight=weight)
    assert program.run(job, 2) == [0, 0], program.log(job)

    def nll(run: Path, pairs: Sequence[TokenPair]) -> float:
        """Of right answers, nats per token of each."""
        module = read_model(run)
        with torch.no_grad():
            losses = [-_log_probs(module, p.prompt, p.chosen) / len(p.chosen) for p in pairs]
        return float(torch.stack(losses).mean())

    of_first_step = [chain_pairs(24)[permute(sample, 24, stream_key(7, 0))] for sample in range(BATCH // LENGTH)]
    first, before = (json.loads((run / "curve.jsonl").open().readline())["loss"] for run in (job.folder, learnt[KINDS[0]]))
    assert first == pytest.approx(before + weight * nll(folder, of_first_step), abs=1e-5)
    assert _validation(job.folder, "validation_start.json") == pytest.approx(math.log(2), abs=1e-6), "measured are pairs alone"
    held_out = chain_pairs(7, first=1000)
    behind, without = (nll(run / MODEL_FOLDER, held_out) for run in (job.folder, learnt[PreferenceKind.DPO]))
    assert behind < min(nll(folder, held_out), without) - 0.05
