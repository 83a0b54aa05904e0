"""The exported folder is the Megatron model: same logits, same bytes from every layout, and nothing left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from athanor.artifacts.manifest import Manifest, Provenance, Result
from athanor.artifacts.run import Input, StageError, StageRun
from athanor.models.conversions import Correspondence, correspondences, join_query_key_value, split_query_key_value
from athanor.models.huggingface import export
from athanor.models.safetensors_file import read_header
from athanor.models.torch_dist import CheckpointError, ShardedCheckpoint
from athanor.models.weight_files import ExportError, plan_shards, verify
from athanor.recipe.families import family_of
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Export, Recipe
from athanor.recipe.schema.training import Model
from athanor.stages import export as export_stage
from tests import ranks as warm
from tests.evaluation.tiny import write_tokenizer
from tests.models.megatron_checkpoint import small_model, write

LOGIT_TOLERANCE = 1e-5  # float32; measured 6e-7 of 1


def run_ranks(folder: Path, load: Path | None = None, *, ranks: int = 1, tie: bool = False, **sizes: int) -> Path:
    """Write a checkpoint with `ranks` processes; its folder."""
    logs = [folder.parent / f"{folder.name}-{rank}.log" for rank in range(ranks)]
    if any(warm.wait(warm.start(write, folder, load, tie, sizes, logs=logs))):
        pytest.fail("".join(log.read_text()[-3000:] for log in logs))
    return folder


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(tmp_path_factory.mktemp("untied") / "one")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def exported(source: Path, tokenizer: Path, folder: Path, model: Model, **settings: object) -> Path:
    export(source / "checkpoint", tokenizer, folder, model, replace(Export(), **settings), lambda done, total: None)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_same_logits(folder: Path, source: Path) -> None:
    expected = torch.load(source / "logits.pt")
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        found = model.eval()(expected["tokens"]).logits
    assert (found - expected["logits"]).abs().max() <= LOGIT_TOLERANCE


def test_export_gives_megatrons_logits(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert_same_logits(exported(untied, tokenizer, tmp_path / "model", small_model(tie=False)), untied)


@pytest.mark.slow
def test_export_tied_embeddings_gives_megatrons_logits(tokenizer: Path, tmp_path: Path) -> None:
    tied = run_ranks(tmp_path / "tied", tie=True)
    folder = exported(tied, tokenizer, tmp_path / "model", small_model(tie=True))
    assert_same_logits(folder, tied)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tensor", "expert", "pipeline"])
def test_export_other_layouts_give_the_same_bytes(untied: Path, tokenizer: Path, tmp_path: Path, size: str) -> None:
    resharded = run_ranks(tmp_path / "two", untied / "checkpoint", ranks=2, **{size: 2})
    model = small_model(tie=False)
    one = exported(untied, tokenizer, tmp_path / "from-one", model)
    two = exported(resharded, tokenizer, tmp_path / "from-two", model)
    assert contents(one) == contents(two)


def test_export_in_small_files_holds_the_same_tensors(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    whole = exported(untied, tokenizer, tmp_path / "whole", small_model(tie=False))
    parts = exported(untied, tokenizer, tmp_path / "parts", small_model(tie=False), max_shard_bytes=100_000)
    index = json.loads((parts / "model.safetensors.index.json").read_text())["weight_map"]
    expected = load_file(whole / "model.safetensors")
    files = {name: load_file(parts / name) for name in set(index.values())}
    assert len(files) > 2
    assert index.keys() == expected.keys()
    assert all(torch.equal(files[file][name], expected[name]) for name, file in index.items())


def test_export_again_gives_the_same_bytes_and_rewrites_no_finished_file(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = exported(untied, tokenizer, tmp_path / "model", small_model(tie=False), max_shard_bytes=100_000)
    before = contents(folder)
    weights = sorted(folder.glob("*.safetensors"))
    weights[1].unlink()  # as if killed while writing it
    stamps = {path: path.stat().st_mtime_ns for path in weights if path.exists()}
    exported(untied, tokenizer, folder, small_model(tie=False), max_shard_bytes=100_000)
    assert contents(folder) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_export_bf16_rounds_every_weight_once(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    fp32 = load_file(exported(untied, tokenizer, tmp_path / "fp32", small_model(tie=False)) / "model.safetensors")
    folder = exported(untied, tokenizer, tmp_path / "bf16", small_model(tie=False), dtype=Precision.BF16)
    bf16 = load_file(folder / "model.safetensors")
    assert all(torch.equal(bf16[name], weight.to(torch.bfloat16)) for name, weight in fp32.items())
    assert AutoModelForCausalLM.from_pretrained(folder).dtype is torch.bfloat16


def test_export_config_says_what_the_recipe_says(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    model = replace(small_model(tie=False), norm_epsilon=3e-6)
    folder = exported(untied, tokenizer, tmp_path / "model", model)
    config = AutoModelForCausalLM.from_pretrained(folder).config
    assert (config.rms_norm_eps, config.rope_parameters["rope_theta"], config.norm_topk_prob) == (3e-6, 5000.0, True)
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == config.eos_token_id == 0


def test_verify_asks_transformers_what_the_model_lacks(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = exported(untied, tokenizer, tmp_path / "model", small_model(tie=False))
    file = folder / "model.safetensors"
    without_norm = {name: weight for name, weight in load_file(file).items() if name != "model.norm.weight"}
    save_file(without_norm, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"missing_keys: model\.norm\.weight"):
        verify(folder, {file.name: read_header(file)})


def test_export_writes_the_bytes_that_the_safetensors_library_writes(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    file = exported(untied, tokenizer, tmp_path / "model", small_model(tie=False)) / "model.safetensors"
    save_file(load_file(file), tmp_path / "by-the-library", metadata={"format": "pt"})
    assert file.read_bytes() == (tmp_path / "by-the-library").read_bytes()


def test_export_damaged_file_is_refused(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = exported(untied, tokenizer, tmp_path / "model", small_model(tie=False), max_shard_bytes=100_000)
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    shutil.copyfile(second, first)  # a finished file with another one's tensors
    with pytest.raises(ExportError, match=f"{first.name} lacks"):
        exported(untied, tokenizer, folder, small_model(tie=False), max_shard_bytes=100_000)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"qk_norm": False}, ExportError, "model.qk_norm=false"),
        ({"num_layers": 3}, CheckpointError, "another recipe"),
        ({"hidden_size": 96}, CheckpointError, "another recipe"),
        ({"vocab_size": 4096}, CheckpointError, "another recipe"),
        ({"tie_embeddings": True}, ExportError, "no place for: output_layer.weight"),
    ],
)
def test_export_of_another_model_is_refused(
    untied: Path, tokenizer: Path, tmp_path: Path, change: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        exported(untied, tokenizer, tmp_path / "model", replace(small_model(tie=False), **change))


def test_export_of_an_unfinished_checkpoint_is_refused(untied: Path, tmp_path: Path) -> None:
    shutil.copytree(untied / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "metadata.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no metadata.json: the save never finished"):
        ShardedCheckpoint(tmp_path / "checkpoint")


def test_sharded_checkpoint_slices_equal_the_whole(untied: Path) -> None:
    checkpoint = ShardedCheckpoint(untied / "checkpoint")
    name = "decoder.layers.mlp.experts.experts.linear_fc1.weight"
    whole = checkpoint.read(name)
    assert whole.shape == checkpoint.shape(name) == (2, 4, 80, 48)
    assert all(torch.equal(checkpoint.read(name, (i, e)), whole[i, e]) for i in range(2) for e in range(4))
    with pytest.raises(IndexError, match="asked for"):
        checkpoint.read(name, (2,))


@settings(deadline=None)
@given(groups=st.integers(1, 4), per_group=st.integers(1, 4), dim=st.integers(1, 4))
def test_split_query_key_value_undoes_megatrons_order(groups: int, per_group: int, dim: int) -> None:
    heads, hidden = groups * per_group, 3
    query = torch.arange(heads * dim * hidden).float().view(heads, dim, hidden)
    key = 1e4 + torch.arange(groups * dim * hidden).float().view(groups, dim, hidden)
    value = 2e4 + torch.arange(groups * dim * hidden).float().view(groups, dim, hidden)
    rows = [torch.cat([*query[g * per_group : (g + 1) * per_group], key[g], value[g]]) for g in range(groups)]
    model = Model(num_attention_heads=heads, num_query_groups=groups, head_dim=dim, hidden_size=hidden)
    fused = torch.cat(rows)
    found = split_query_key_value(fused, model)
    assert torch.equal(join_query_key_value(found, model), fused)
    assert all(torch.equal(part, whole.reshape(-1, hidden)) for part, whole in zip(found, (query, key, value), strict=True))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40), limit=st.integers(1, 400))
def test_plan_shards_keeps_order_and_stays_below_the_limit(sizes: list[int], limit: int) -> None:
    pieces = [_vector(f"tensor{i}", size) for i, size in enumerate(sizes)]
    shards = plan_shards(pieces, itemsize=4, max_shard_bytes=limit)
    assert [piece for group in shards for piece in group] == pieces
    assert all(len(group) == 1 or 4 * sum(piece.values for piece in group) <= limit for group in shards)


def _vector(name: str, size: int) -> Correspondence:
    return Correspondence("source", (), (size,), ((name, (size,)),), lambda tensor: (tensor,), lambda parts: parts[0])


def test_correspondences_name_every_tensor_once() -> None:
    model = small_model(tie=False)
    targets = [name for piece in correspondences(model, family_of(model)) for name, _ in piece.huggingface]
    assert len(targets) == len(set(targets)) == 3 + 2 * (9 + 3 * 4)


def test_export_stage_carries_the_checkpoints_step_and_lists_its_files(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    run = StageRun(
        recipe=Recipe(model=small_model(tie=False)),
        stage="export",
        instance="400K",
        fingerprint="0" * 16,
        folder=tmp_path / "export",
        inputs={
            "checkpoint": made_by("pretrain", untied, step=7, tokens=400),
            "tokenizer": made_by("tokenizer", tokenizer),
        },
    )
    outcome = export_stage.run(run)
    assert (outcome.counters["step"], outcome.counters["tokens"]) == (7, 400)
    assert outcome.counters["weight_bytes"] == 4 * int(outcome.counters["parameters"])
    assert set(outcome.files) == {f"model/{path.name}" for path in (run.folder / "model").iterdir()}


def test_export_stage_tells_the_user_what_does_not_fit(untied: Path, tokenizer: Path, tmp_path: Path) -> None:
    inputs = {"checkpoint": made_by("pretrain", untied), "tokenizer": made_by("tokenizer", tokenizer)}
    wrong = Recipe(model=replace(small_model(tie=False), num_experts=8))
    with pytest.raises(
        StageError, match=r"mlp\.router\.weight has the shape \(2, 4, 48\), the recipe's model wants \(2, 8, 48\)"
    ):
        export_stage.run(StageRun(wrong, "export", "400K", "0" * 16, tmp_path / "export", inputs))


def made_by(stage: str, folder: Path, **counters: int) -> Input:
    result = Result(stage, "any", "0" * 16, {}, (), counters)
    return Input(folder, Manifest(result, Provenance("", 1, 0.0, 0.0, "", "")))
