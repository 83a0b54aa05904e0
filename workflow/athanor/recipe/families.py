"""The Hugging Face families that convert, and what their config.json says in the words of the recipe's `model` section.

Qwen3 and Qwen3-MoE are this decoder, and Glm4Moe where its router is `loss_free`; Intern-S1 holds a Qwen3 as its language
model, beside a vision tower and a projector, for which there is no place here.
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from athanor.recipe.schema.choices import Router
from athanor.recipe.schema.training import Model

CONFIG = "config.json"
DENSE, MOE, LOSS_FREE = "qwen3", "qwen3_moe", "glm4_moe"
QWEN3, QWEN3_MOE, INTERN_S1 = "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "InternS1ForConditionalGeneration"
GLM4_MOE = "Glm4MoeForCausalLM"

# Our key, theirs.
KEYS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "max_sequence_length": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
}
KEYS_OF = {
    DENSE: KEYS | {"expert_ffn_size": "intermediate_size"},
    MOE: KEYS
    | {
        "num_experts": "num_experts",
        "experts_per_token": "num_experts_per_tok",
        "expert_ffn_size": "moe_intermediate_size",
    },
    LOSS_FREE: KEYS
    | {
        "num_experts": "n_routed_experts",
        "experts_per_token": "num_experts_per_tok",
        "expert_ffn_size": "moe_intermediate_size",
        "shared_experts": "n_shared_experts",
    },
}
SYNONYMS = {"num_experts": "num_local_experts"}  # as transformers 5 writes it
# What only this value of can be computed here, and what a config without the key means.
FIXED: dict[str, tuple[Any, Any]] = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "use_sliding_window": (False, False),
}
FIXED_OF = {
    DENSE: FIXED,
    MOE: FIXED | {"norm_topk_prob": (True, False), "decoder_sparse_step": (1, 1), "mlp_only_layers": ([], [])},
    LOSS_FREE: FIXED
    | {
        "norm_topk_prob": (True, True),
        "first_k_dense_replace": (0, 1),
        "n_group": (1, 1),
        "topk_group": (1, 1),
        "routed_scaling_factor": (1.0, 1.0),
        "use_qk_norm": (True, False),
    },
}
DECIDE_NO_WEIGHTS = (
    "max_sequence_length", "init_std", "aux_loss_coefficient", "z_loss_coefficient", "expert_bias_rate", "balance",
)  # fmt: skip


class ConfigError(Exception):
    """A config.json that does not describe a model that can be built here; `problems` has every reason."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join([f"{path}: {len(problems)} problem(s)", *(f"  {problem}" for problem in problems)]))


@dataclass(frozen=True)
class Family:
    """How a family lays out the decoder: what config.json calls it, and where its description and its tensors are."""

    architecture: str
    layers: str  # DENSE, MOE or LOSS_FREE
    section: str = ""  # of config.json that describes the decoder; empty: the top
    prefix: str = "model."  # of the decoder's tensors

    @property
    def has_other_parts(self) -> bool:
        """Whether its folders also hold tensors that are no part of the decoder."""
        return bool(self.section)

    def with_layers(self, layers: str) -> "Family":
        """The same layout with a decoder of the other kind."""
        return next(f for f in FAMILIES if f.layers == layers and f.has_other_parts == self.has_other_parts)


FAMILIES = (
    Family(QWEN3, DENSE),
    Family(QWEN3_MOE, MOE),
    Family(GLM4_MOE, LOSS_FREE),
    Family(INTERN_S1, DENSE, "text_config", "model.language_model."),
    Family(INTERN_S1, MOE, "text_config", "model.language_model."),
)


@dataclass(frozen=True)
class Described:
    """What a config.json says: the family, the decoder as the recipe would have it, and all of its keys."""

    family: Family
    model: Model
    config: Mapping[str, Any]


def layers_of(model: Model) -> str:
    """Which kind of layers `model` has."""
    if model.router is Router.LOSS_FREE:
        return LOSS_FREE
    return MOE if model.num_experts else DENSE


def family_of(model: Model) -> Family:
    """The family of a decoder that stands alone."""
    return next(f for f in FAMILIES if f.layers == layers_of(model) and not f.has_other_parts)


def read_config(folder: Path) -> Described:
    """Read `folder`/config.json. Raises ConfigError with every problem."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}; a folder as transformers saves one is wanted"]) from error
    except ValueError as error:
        raise ConfigError(path, [f"is not JSON: {error}"]) from error
    if not isinstance(config, dict):
        raise ConfigError(path, ["is not a mapping"])
    return describe(config, path)


def describe(config: Mapping[str, Any], path: Path) -> Described:
    """The model that `config`, found at `path`, describes. Raises ConfigError with every problem."""
    architectures = config.get("architectures") or []
    known = [f for f in FAMILIES if f.architecture in architectures]
    if not known:
        names = ", ".join(dict.fromkeys(f.architecture for f in FAMILIES))
        raise ConfigError(path, [f"architectures={architectures}: not one of {names}, which convert"])
    section = known[0].section
    text: Mapping[str, Any] = config.get(section, {}) if section else config
    family = next((f for f in known if f.layers == text.get("model_type")), None)
    if family is None:
        where = f"{section}.model_type" if section else "model_type"
        kinds = " or ".join(f.layers for f in known)
        raise ConfigError(path, [f"{where}={text.get('model_type')!r}: {known[0].architecture} converts with {kinds}"])
    problems = [*_missing(text, family), *_not_here(text, family, config)]
    if problems:
        raise ConfigError(path, problems)
    values = {ours: text[_name(text, theirs)] for ours, theirs in KEYS_OF[family.layers].items()}
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    model = Model(
        **{"num_experts": 0, **values, "rope_base": float(_rope_base(text)), "qk_norm": True, "tie_embeddings": bool(tied)},
        init_std=text.get("initializer_range", Model.init_std),
        aux_loss_coefficient=text.get("router_aux_loss_coef", Model.aux_loss_coefficient),
        router=Router.LOSS_FREE if family.layers == LOSS_FREE else Router.SOFTMAX,
    )
    return Described(family, model, config)


def differences(recipe: Model, described: Model) -> Iterator[tuple[str, Any, str]]:
    """Keys of the recipe's model that the weights of `described` do not fit: key, its value, and what to use.

    A larger vocabulary is an extension; experts where the weights are dense are made of copies (upcycling).
    """
    upcycled = bool(recipe.num_experts) and not described.num_experts
    for field in fields(Model):
        ours, theirs = getattr(recipe, field.name), getattr(described, field.name)
        if ours == theirs or field.name in DECIDE_NO_WEIGHTS:
            continue
        if not recipe.num_experts and field.name == "experts_per_token":
            continue
        if upcycled and field.name in ("num_experts", "experts_per_token"):
            continue
        if field.name == "vocab_size":
            if ours < theirs:
                yield field.name, ours, f"the weights have {theirs} rows, and rows are only ever added; use at least {theirs}"
            continue
        yield field.name, ours, f"the weights have {theirs}; use {theirs}"


def adapted(described: Described, model: Model) -> dict[str, Any]:
    """The config.json of `model`, made from the one of `described`: keys that still hold, and those not known here, stay."""
    config = deepcopy(dict(described.config))
    family = described.family.with_layers(layers_of(model))
    text = config[family.section] if family.section else config
    before = described.model
    if family != described.family:
        config["architectures"] = [family.architecture]
        text |= {"model_type": family.layers, **{key: fixed for key, (fixed, _) in FIXED_OF[family.layers].items()}}
        before = replace(before, num_experts=-1, experts_per_token=-1, expert_ffn_size=-1)
    for ours, theirs in KEYS_OF[family.layers].items():
        if (value := getattr(model, ours)) != getattr(before, ours):
            text[_name(text, theirs)] = value
            if family.section and theirs in config:  # some folders repeat the vocabulary's size at the top
                config[theirs] = value
    if model.rope_base != before.rope_base:
        _set_rope_base(text, model.rope_base)
    return config


def _missing(text: Mapping[str, Any], family: Family) -> Iterator[str]:
    wanted = [theirs for theirs in KEYS_OF[family.layers].values() if not _is_number(text.get(_name(text, theirs)))]
    if wanted:
        where = f" of {family.section}" if family.section else ""
        yield f"{', '.join(wanted)}{where}: not there, or no number; this family's configs have them"
    if not _is_number(_rope_base(text)):
        yield "rope_theta: not there, or no number (newer configs: rope_parameters.rope_theta)"


def _not_here(text: Mapping[str, Any], family: Family, config: Mapping[str, Any]) -> Iterator[str]:
    for key, (possible, absent) in FIXED_OF[family.layers].items():
        value = text.get(key, absent)
        if value != possible and not (value is None and not possible):
            yield f"{key}={value!r}: only {possible!r} can be computed here"
    if family.layers == MOE and (chosen := text.get("num_experts_per_tok")) in (0, 1):
        yield f"num_experts_per_tok={chosen}: at least 2 are chosen here"
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    usual = 0.5 if family.layers == LOSS_FREE else 1.0  # Glm4MoeConfig's own
    if (share := rope.get("partial_rotary_factor", text.get("partial_rotary_factor", usual))) != 1.0:
        yield f"partial_rotary_factor={share}: positions turn whole heads here, only 1.0 can be computed"
    if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        yield f"rope scaling {kind!r}: positions are not scaled here; use a folder without it"
    if "quantization_config" in text or "quantization_config" in config:
        yield "quantization_config: the weights are quantized; use the BF16 release of the model"


def _name(text: Mapping[str, Any], key: str) -> str:
    """`key`, or its synonym where the config has that."""
    return SYNONYMS[key] if SYNONYMS.get(key) in text else key


def _rope_base(text: Mapping[str, Any]) -> Any:
    return (text.get("rope_parameters") or {}).get("rope_theta", text.get("rope_theta"))


def _set_rope_base(text: dict[str, Any], base: float) -> None:
    place = text["rope_parameters"] if "rope_theta" in (text.get("rope_parameters") or {}) else text
    place["rope_theta"] = base


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
