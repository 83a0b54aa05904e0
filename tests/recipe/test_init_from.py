"""A recipe that starts from a Hugging Face folder: its config.json is checked, what it holds is locked."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from athanor.data.locking import lock
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_recipe, read_recipe
from athanor.recipe.problems import RecipeError
from tests.recipe.projects import Project, base, put

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 4096, "hidden_size": 128,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512, "rope_theta": 10000, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "norm_topk_prob": True,
}  # fmt: skip
DENSE = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "intermediate_size": 256}


def started(project: Project, config: dict[str, Any], **keys: Any) -> Path:
    """The recipe `base` with `keys`, starting from a folder of `config`."""
    folder = project.root / "models" / "base"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"model.norm.weight": torch.ones(128)}, folder / "model.safetensors")
    data = put(base(), "pretrain.init_from", "models/base")
    for key, value in keys.items():
        data = put(data, key.replace("__", "."), value)
    return project.write("base", data)


def problems(file: Path) -> list[str]:
    return [str(problem) for problem in read_recipe(str(file)).problems]


def test_folder_that_is_not_locked_floats(project: Project) -> None:
    file = started(project, CONFIG)
    assert problems(file) == ["pretrain.init_from='models/base': floats (no sha256); lock it: athanor recipe lock base"]


def test_every_difference_between_folder_and_recipe_is_named_with_the_value_to_use(project: Project) -> None:
    config = CONFIG | {"hidden_size": 256, "num_experts": 16, "vocab_size": 5000, "max_position_embeddings": 64}
    assert problems(started(project, config, pretrain__init_from_sha256="d" * 64)) == [
        "model.hidden_size=128: the weights have 256; use 256 (pretrain.init_from=models/base)",
        "model.num_experts=8: the weights have 16; use 16 (pretrain.init_from=models/base)",
        "model.vocab_size=4096: the weights have 5000 rows, and rows are only ever added; use at least 5000 "
        "(pretrain.init_from=models/base)",
    ]


@pytest.mark.parametrize("config", [CONFIG, CONFIG | {"vocab_size": 4000}, CONFIG | DENSE])
def test_same_model_a_smaller_vocabulary_and_dense_layers_are_fine(project: Project, config: dict[str, Any]) -> None:
    assert problems(started(project, config, pretrain__init_from_sha256="d" * 64)) == []


def test_folder_that_is_not_there_or_does_not_convert_is_a_problem(project: Project) -> None:
    file = started(project, CONFIG | {"architectures": ["LlamaForCausalLM"]}, pretrain__init_from_sha256="xyz")
    [one, two] = problems(file)
    assert one == "pretrain.init_from_sha256='xyz': expected 64 hexadecimal digits"
    assert "config.json: architectures=['LlamaForCausalLM']: not one of Qwen3ForCausalLM" in two
    (project.root / "models" / "base" / "config.json").unlink()
    assert "config.json: cannot be read: No such file or directory" in problems(file)[1]


def test_folder_without_its_tokenizer_is_a_problem(project: Project) -> None:
    file = started(project, CONFIG, pretrain__init_from_sha256="d" * 64)
    (project.root / "models" / "base" / "tokenizer.json").unlink()
    [problem] = problems(file)
    assert "has no tokenizer.json, and its weights know no other tokenizer" in problem


def test_digest_without_a_folder_is_a_problem(project: Project) -> None:
    file = project.write("base", put(base(), "pretrain.init_from_sha256", "d" * 64))
    [problem] = problems(file)
    assert problem.endswith("there is no pretrain.init_from; leave it out")


def test_lock_fills_the_digest_and_keeps_what_was_locked(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    started(project, CONFIG)
    path = project.root / "config" / "recipes" / "base.lock.yaml"
    path.write_text(yaml.safe_dump({"data": {"sources": {"prose": {"sha256": "a" * 64}}}}))
    assert lock("base") == 0
    locked = yaml.safe_load(path.read_text())
    assert locked["data"]["sources"]["prose"]["sha256"] == "a" * 64
    assert load_recipe("base").pretrain.init_from_sha256 == locked["pretrain"]["init_from_sha256"]
    assert lock("base") == 0
    assert "nothing floats" in capsys.readouterr().out


def test_lock_does_not_hide_that_the_folder_is_another_model(project: Project) -> None:
    started(project, CONFIG | {"hidden_size": 256})
    with pytest.raises(RecipeError, match=r"model\.hidden_size=128: the weights have 256"):
        lock("base")


def test_identity_knows_what_the_folder_holds_and_not_where_it_lies(project: Project) -> None:
    def start(**keys: Any) -> str:
        file = started(project, CONFIG, **keys)
        return Lifecycle(read_recipe(str(file)).recipe, project.root)["initialize/model"].fingerprint

    digest = {"pretrain__init_from_sha256": "d" * 64}
    assert start(**digest) == start(**digest, pretrain__init_from="../elsewhere/models/base")
    assert start(**digest) != start(pretrain__init_from_sha256="e" * 64)
    without = project.write("without", base())
    fresh = Lifecycle(read_recipe(str(without)).recipe, project.root)["initialize/model"]
    assert not [key for key in fresh.section if "init_from" in key]
