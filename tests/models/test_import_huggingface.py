"""Hugging Face folders become Megatron checkpoints and the same bytes again; the model is the same, or grew as promised."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from athanor.models.conversions import BIAS
from athanor.models.folder_files import FolderError
from athanor.models.growth import extend_rows
from athanor.models.huggingface import export
from athanor.models.huggingface_folder import open_folder
from athanor.models.import_huggingface import plan_import
from athanor.models.origin import HUGGINGFACE, open_origin
from athanor.models.restore import plan_restore, restore
from athanor.models.safetensors_file import read_header
from athanor.models.torch_dist import ShardedCheckpoint
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Export
from athanor.recipe.schema.training import Model
from athanor.training.checkpoints import FINAL, STATE
from athanor.training.importing import write_import
from tests import ranks as warm
from tests.evaluation.tiny import write_tokenizer
from tests.models.folders import DENSE, INTERN_S1, LOSS_FREE, MOE, VOCABULARY, contents, random_model, write_folder
from tests.models.logits import compute

TOLERANCE = 1e-5  # of logits of size 1 to 10, float32


def imported(source: Path, into: Path, model: Model | None = None, dtype: torch.dtype | None = None, seed: int = 0) -> Path:
    folder = open_folder(source)
    write_import(plan_import(folder, model or folder.described.model, seed, dtype), into, lambda done, total: None)
    return into


def restored(source: Path, into: Path, like: Path | None = None, dtype: torch.dtype | None = None) -> Path:
    origin = open_origin(like or source / HUGGINGFACE)
    model = open_origin(source / HUGGINGFACE).model
    assert model is not None
    restore(plan_restore(source / FINAL, model, origin, dtype), into, lambda done, total: None)
    return into


def megatron_logits(folder: Path, model: Model, tokens: torch.Tensor, **sizes: int) -> torch.Tensor:
    ranks = next(iter(sizes.values()), 1)
    torch.save(tokens, folder / "tokens.pt")
    logs = [folder / f"rank-{rank}.log" for rank in range(ranks)]
    started = warm.start(compute, folder / FINAL, model, folder / "tokens.pt", folder / "logits.pt", sizes, logs=logs)
    if any(warm.wait(started)):
        pytest.fail("".join(log.read_text()[-3000:] for log in logs))
    found: torch.Tensor = torch.load(folder / "logits.pt")
    return found


def transformers_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits
    return found


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("family", [DENSE, MOE, LOSS_FREE, INTERN_S1])
def test_round_trip_gives_every_file_the_same_bytes(family: str, tie: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", family, tie=tie, dtype=dtype, shard="60KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    back = restored(imported(source, tmp_path / "import"), tmp_path / "back")
    assert contents(back) == contents(source)


def test_round_trip_of_a_tied_folder_that_repeats_its_embedding_keeps_both(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", DENSE, tie=True)
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert contents(restored(imported(source, tmp_path / "import"), tmp_path / "back")) == contents(source)
    assert "output_layer.weight" not in ShardedCheckpoint(tmp_path / "import" / FINAL)


def test_carried_tensors_are_kept_without_the_decoder(tmp_path: Path) -> None:
    kept = imported(write_folder(tmp_path / "source", INTERN_S1), tmp_path / "import") / HUGGINGFACE
    names = [name for file in sorted((kept / "carried").iterdir()) for name in read_header(file).entries]
    assert len(names) == 5
    assert all(name.startswith(("model.vision_tower.", "model.multi_modal_projector.")) for name in names)
    assert (kept / "configuration_interns1.py").is_file()


@pytest.mark.parametrize(("family", "tie"), [(DENSE, False), (DENSE, True), (MOE, False), (MOE, True), (LOSS_FREE, False)])
def test_imported_model_gives_the_logits_of_transformers(family: str, tie: bool, tokens: torch.Tensor, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", family, tie=tie)
    folder = imported(source, tmp_path / "import")
    found = megatron_logits(folder, open_folder(source).described.model, tokens)
    assert (found - transformers_logits(source, tokens)).abs().max() <= TOLERANCE


def test_imported_intern_s1_gives_the_logits_of_its_language_model(tokens: torch.Tensor, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", INTERN_S1, seed=9)
    text = random_model(MOE, tie=False, dtype=torch.float32, seed=9)
    found = megatron_logits(imported(source, tmp_path / "import"), open_folder(source).described.model, tokens)
    with torch.no_grad():
        assert (found - text.eval()(tokens).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("family", "size"), [(DENSE, "tensor"), (MOE, "tensor"), (MOE, "expert"), (LOSS_FREE, "tensor")])
def test_imported_checkpoint_loads_into_other_layouts(family: str, size: str, tokens: torch.Tensor, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", family)
    found = megatron_logits(imported(source, tmp_path / "import"), open_folder(source).described.model, tokens, **{size: 2})
    assert (found - transformers_logits(source, tokens)).abs().max() <= TOLERANCE


def test_imported_bf16_weights_load_into_an_fp32_model(tokens: torch.Tensor, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", MOE, dtype=torch.bfloat16)
    found = megatron_logits(imported(source, tmp_path / "import"), open_folder(source).described.model, tokens)
    assert (found - transformers_logits(source, tokens)).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("dtype", "tolerance"), [(Precision.FP32, TOLERANCE), (Precision.BF16, 0.5)])
def test_stage_exports_a_loss_free_router_as_transformers_knows_it(
    dtype: Precision, tolerance: float, tokens: torch.Tensor, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "source", LOSS_FREE)
    folder, model = imported(source, tmp_path / "import"), open_folder(source).described.model
    export(folder / FINAL, write_tokenizer(tmp_path / "tokenizer"), tmp_path / "out", model, Export(dtype=dtype), lambda *_: None)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    biases = [name for name in before if name.endswith(BIAS)]
    assert len(biases) == 2 and all(torch.equal(after[name], before[name]) for name in biases)
    expected = transformers_logits(source, tokens)
    assert (transformers_logits(tmp_path / "out", tokens) - expected).abs().max() <= tolerance < expected.abs().max()


def test_import_again_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", MOE)
    one, two = imported(source, tmp_path / "one"), imported(source, tmp_path / "two")
    assert contents(one) == contents(two)


@pytest.mark.parametrize("family", [DENSE, LOSS_FREE])
def test_import_in_another_type_rounds_every_weight_once_and_says_so_on_the_way_back(family: str, tmp_path: Path) -> None:
    """But a router's bias, which stays as it is."""
    source = write_folder(tmp_path / "source", family)
    folder = imported(source, tmp_path / "import", dtype=torch.bfloat16)
    back = load_file(restored(folder, tmp_path / "back", dtype=torch.bfloat16) / "model.safetensors")
    before = load_file(source / "model.safetensors")
    expected = {name: weight if name.endswith(BIAS) else weight.bfloat16() for name, weight in before.items()}
    assert {name: weight.dtype for name, weight in back.items()} == {name: weight.dtype for name, weight in expected.items()}
    assert all(torch.equal(back[name], weight) for name, weight in expected.items())
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(("family", "tie"), [(DENSE, False), (MOE, True), (INTERN_S1, False)])
def test_longer_vocabulary_keeps_old_rows_and_adds_their_mean(family: str, tie: bool, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", family, tie=tie)
    before = open_folder(source)
    model = replace(before.described.model, vocab_size=352)
    back = open_folder(restored(imported(source, tmp_path / "import", model), tmp_path / "back"))
    assert back.described.model == model
    embedding = next(name for name in before.file_of if name.endswith("embed_tokens.weight"))
    for name in [embedding] if tie else [embedding, "lm_head.weight"]:
        old, new = before.read(name), back.read(name)
        assert torch.equal(new[:VOCABULARY], old)
        assert torch.equal(new[VOCABULARY:], old.double().mean(dim=0).float().expand(32, -1))
    others = before.file_of.keys() - {embedding, "lm_head.weight"}
    assert back.file_of.keys() == before.file_of.keys()
    assert all(_same_bytes(back, before, name) for name in others)


def test_extended_rows_of_more_than_a_block_have_the_mean_of_all() -> None:
    rows = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))
    longer = extend_rows(rows, 9002)
    assert torch.equal(longer[:9000], rows)
    assert torch.allclose(longer[9000:], rows.double().mean(dim=0).float().expand(2, -1), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("experts", "chosen"), [(4, 2), (8, 3)])
def test_upcycled_model_computes_what_the_dense_one_did(experts: int, chosen: int, tokens: torch.Tensor, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", DENSE)
    model = replace(open_folder(source).described.model, num_experts=experts, experts_per_token=chosen)
    folder = imported(source, tmp_path / "import", model, seed=3)
    expected = transformers_logits(source, tokens)
    assert (megatron_logits(folder, model, tokens) - expected).abs().max() <= TOLERANCE
    back = restored(folder, tmp_path / "back")
    assert (transformers_logits(back, tokens) - expected).abs().max() <= TOLERANCE
    routers = ShardedCheckpoint(folder / FINAL).read("decoder.layers.mlp.router.weight")
    assert 0.01 < routers.std() < 0.03
    assert not torch.equal(routers[0], routers[1])
    again = imported(source, tmp_path / "again", model, seed=4)
    assert not torch.equal(ShardedCheckpoint(again / FINAL).read("decoder.layers.mlp.router.weight"), routers)


def test_upcycled_intern_s1_and_more_rows_at_once_describe_themselves(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", DENSE)
    model = replace(open_folder(source).described.model, num_experts=4, vocab_size=330)
    back = restored(imported(source, tmp_path / "import", model), tmp_path / "back")
    assert open_folder(back).described.model == replace(model, aux_loss_coefficient=Model.aux_loss_coefficient)


def test_restore_like_the_published_folder_takes_its_tower_from_there(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", INTERN_S1)
    back = restored(imported(source, tmp_path / "import"), tmp_path / "back", like=source)
    assert contents(back) == contents(source)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": 310}, "model.vocab_size=310: the weights have 320 rows, and rows are only ever added; use at least 320"),
        ({"num_layers": 3, "rope_base": 1e4}, "model.rope_base=10000.0: the weights have 5000.0; use 5000.0"),
        ({"num_experts": 8}, "model.num_experts=8: the weights have 4; use 4"),
        ({"tie_embeddings": True}, "model.tie_embeddings=True: the weights have False; use False"),
    ],
)
def test_another_model_than_the_folders_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = open_folder(write_folder(tmp_path / "source", MOE))
    with pytest.raises(FolderError) as caught:
        plan_import(folder, replace(folder.described.model, **change), seed=0)
    assert len(caught.value.problems) == len(change)
    assert says in caught.value.problems


def test_killed_import_leaves_no_checkpoint_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athanor.models.import_huggingface.MAX_FILE_BYTES", 20_000)
    source = write_folder(tmp_path / "source", MOE)
    whole = imported(source, tmp_path / "whole")
    folder = open_folder(source)
    plan = plan_import(folder, folder.described.model, 0)

    class KilledError(Exception):
        pass

    def kill_half_way(done: int, total: int) -> None:
        if done > total / 2:
            raise KilledError

    into = tmp_path / "import"
    with pytest.raises(KilledError):
        write_import(plan, into, kill_half_way)
    assert not (into / FINAL).exists()
    beside = into / f".{FINAL}.writing"
    assert not (beside / STATE).exists()
    finished = {path: path.stat().st_mtime_ns for path in beside.glob("__0_*.distcp")}
    assert len(finished) > 2
    first = next(iter(sorted(finished)))
    write_import(plan, into, lambda done, total: None)
    assert contents(into) == contents(whole)
    assert (into / FINAL / first.name).stat().st_mtime_ns == finished[first]


def test_killed_import_of_a_folder_that_changed_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athanor.models.import_huggingface.MAX_FILE_BYTES", 20_000)

    def kill_half_way(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    old, new = (write_folder(tmp_path / name, MOE, seed=seed) for name, seed in (("old", 1), ("new", 2)))
    for source in (old, new):
        folder = open_folder(source)
        with pytest.raises(KeyboardInterrupt):
            write_import(plan_import(folder, folder.described.model, 0), tmp_path / "import", kill_half_way)
    again = imported(new, tmp_path / "import")
    assert contents(again / FINAL) == contents(imported(new, tmp_path / "whole") / FINAL)


def _same_bytes(one: Any, other: Any, tensor: str) -> bool:
    def raw(folder: Any) -> bytes:
        header, path = folder.headers[folder.file_of[tensor]], folder.path / folder.file_of[tensor]
        entry = header.entries[tensor]
        data: bytes = path.read_bytes()[header.data_begin + entry.begin : header.data_begin + entry.end]
        return data

    return raw(one) == raw(other)
