"""What a Hugging Face folder is known by, and every way in which one does not convert, told in one report."""

from pathlib import Path
from typing import Any

import pytest

from athanor.models.folder_files import FolderError, digest
from athanor.models.huggingface_folder import open_folder
from tests.models.folders import DENSE, INTERN_S1, MOE, edit_config, write_folder


def test_digest_is_of_names_and_contents_of_what_makes_the_model(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", INTERN_S1)
    before = digest(source, lambda done, total: None)
    (source / "README.md").write_text("a note")
    assert digest(source, lambda done, total: None) == before
    for name in ("config.json", "model.safetensors.index.json", "tokenizer.json", "model-00002-of-00003.safetensors"):
        data = (source / name).read_bytes()
        (source / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if name.endswith("safetensors") else data + b" ")
        assert digest(source, lambda done, total: None) != before
        before = digest(source, lambda done, total: None)


CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another architecture": (
        DENSE,
        {"architectures": ["LlamaForCausalLM"]},
        "architectures=['LlamaForCausalLM']: not one of Qwen3ForCausalLM, Qwen3MoeForCausalLM, Glm4MoeForCausalLM, "
        "InternS1ForConditionalGeneration",
    ),
    "scaled positions": (DENSE, {"rope_scaling": {"type": "yarn", "factor": 4}}, "rope scaling 'yarn'"),
    "biases in attention": (DENSE, {"attention_bias": True}, "attention_bias=True: only False"),
    "a key that is gone": (DENSE, {"num_key_value_heads": None}, "num_key_value_heads: not there"),
    "router weights that are not renormalised": (MOE, {"norm_topk_prob": None}, "norm_topk_prob=False: only True"),
    "dense layers between": (MOE, {"mlp_only_layers": [0]}, "mlp_only_layers=[0]: only []"),
    "another width": (DENSE, {"intermediate_size": 41}, "down_proj.weight has the shape (48, 40), config.json makes it (48, 41)"),
    "more layers": (MOE, {"num_hidden_layers": 3}, "21 tensors are missing: model.layers.2."),
    "fewer layers": (MOE, {"num_hidden_layers": 1}, "21 tensors have no place in Qwen3MoeForCausalLM"),
    "quantized": (DENSE, {"quantization_config": {"quant_method": "fp8"}}, "the weights are quantized"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_config_that_does_not_convert_is_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    family, keys, says = CONFIGS[what]
    source = write_folder(tmp_path / "source", family)
    edit_config(source, **keys)
    with pytest.raises(FolderError) as caught:
        open_folder(source)
    assert any(says in problem for problem in caught.value.problems), caught.value.problems


def test_damaged_folder_is_refused_with_all_problems(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", MOE, shard="60KB")
    first, second, third, *_ = sorted(source.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    third.write_bytes(b"no weights")
    edit_config(source, hidden_act="relu")
    with pytest.raises(FolderError) as caught:
        open_folder(source)
    report = str(caught.value)
    assert "4 problems" in report
    for says in (f"{first.name}: model.safetensors.index.json names it", "copy the file again", third.name, "hidden_act='relu'"):
        assert says in report
