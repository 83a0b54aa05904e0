"""A reward model that starts from a folder of its own: the folder is checked as far as that goes without weights, and locked."""

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
from tests.recipe.projects import Project, base, put
from tests.recipe.schema_walk import with_entries
from tests.recipe.test_init_from import CONFIG

SEVEN_BILLION = {"num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4}
SEVEN_BILLION |= {"head_dim": 128, "intermediate_size": 18944, "vocab_size": 152_064, "max_position_embeddings": 32_768}
DENSE = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1e6}
LOCKED = {"reward.backbone_sha256": "d" * 64}


def with_backbone(project: Project, config: dict[str, Any], **changes: Any) -> Path:
    """A recipe with every section whose reward model starts from a folder of `config`."""
    folder = project.root / "models" / "base"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
    save_file({"model.norm.weight": torch.ones(128)}, folder / "model.safetensors")
    data = put(with_entries(base()), "reward.backbone", "models/base")
    for key, value in changes.items():
        put(data, key, value)
    return project.write("base", data)


def problems(file: Path) -> list[str]:
    return [str(problem) for problem in read_recipe(str(file)).problems]


def test_folder_of_another_size_is_fine_whatever_the_recipes_model(project: Project) -> None:
    huge = {"model.num_layers": 94, "model.hidden_size": 4096, "model.expert_ffn_size": 1536, "model.num_experts": 128}
    assert problems(with_backbone(project, DENSE | SEVEN_BILLION, **LOCKED)) == []
    assert not any("weights, and every rank" in problem for problem in problems(with_backbone(project, CONFIG, **LOCKED, **huge)))


@pytest.mark.parametrize(
    ("config", "changes", "problem"),
    [
        (CONFIG, {}, "reward.backbone='models/base': floats (no sha256); lock it: athanor recipe lock base"),
        (
            CONFIG | {"architectures": ["LlamaForCausalLM"]},
            LOCKED,
            "reward.backbone='models/base': config.json: architectures=['LlamaForCausalLM']: not one of Qwen3ForCausalLM",
        ),
        (
            DENSE | SEVEN_BILLION | {"num_hidden_layers": 90},
            LOCKED,
            "reward.backbone='models/base': the reward model's backbone has 22.1B weights",
        ),
        (
            CONFIG,
            LOCKED | {"reward.tune.lr": 0, "reward.tune.batch_tokens": 0},
            "reward.tune.lr=0: POLAR's law knows this recipe's own model, and not how reward.backbone was trained; say what it",
        ),
        (
            CONFIG | {"max_position_embeddings": 128},
            LOCKED,
            "reward.pretrain.sequence_length=256: reward.backbone takes at most 128",
        ),
        (
            CONFIG,
            LOCKED | {"reward.pretrain.token_budget": 0, "reward.tune.token_budget": 0},
            "reward.backbone='models/base': no reward model is trained; give reward.pretrain or reward.tune a token_budget",
        ),
    ],
)
def test_problem_names_key_value_and_way_out(
    project: Project, config: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    found = problems(with_backbone(project, config, **changes))
    assert [text for text in found if text.startswith(problem)], found


def test_folder_without_a_token_to_pad_with_is_a_problem(project: Project) -> None:
    file = with_backbone(project, CONFIG, **LOCKED)
    (project.root / "models" / "base" / "tokenizer_config.json").write_text("{}")
    assert problems(file) == ["reward.backbone='models/base': its tokenizer_config.json names no pad_token; name one"]


def test_lock_fills_the_digest(project: Project) -> None:
    with_backbone(project, CONFIG)
    assert lock("base") == 0
    locked = yaml.safe_load((project.root / "config" / "recipes" / "base.lock.yaml").read_text())
    assert load_recipe("base").reward.backbone_sha256 == locked["reward"]["backbone_sha256"]


def test_both_trainings_read_texts_by_the_tokenizer_of_the_model_that_spoke(project: Project) -> None:
    lifecycle = Lifecycle(read_recipe(str(with_backbone(project, CONFIG, **LOCKED))).recipe, project.root)
    backbone, speaker = lifecycle["backbone/reward"], lifecycle["triples/polar"].upstreams["model"]
    pretrained, tuned = lifecycle["reward_pretrain/model"], lifecycle["reward_tune/model"]
    assert pretrained.upstreams["start"] is backbone and tuned.upstreams["start"] is pretrained
    assert pretrained.upstreams["speaker"] is tuned.upstreams["speaker"] is speaker
