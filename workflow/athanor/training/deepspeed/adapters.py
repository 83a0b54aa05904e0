"""Few weights trained beside frozen ones, through `peft`: LoRA (beside rounded ones: QLoRA), DoRA and IA3, which merge into the
weights that they adapt.

Sources: Hu et al. 2021 (LoRA), Liu et al. 2024 (DoRA), Liu et al. 2022 (IA3).
"""

from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftMixedModel, PeftModel, get_peft_model
from transformers import PreTrainedModel

from athanor.artifacts.run import StageError
from athanor.recipe.schema.choices import PeftKind
from athanor.recipe.schema.training import Peft
from athanor.training.rounds import Weights

ADAPTER = "adapter"  # below a model's folder
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
SEED = 0  # of LoRA's first factor; the second begins at zero, so the model begins as it was


def adapted(model: PreTrainedModel, settings: Peft) -> PeftModel | PeftMixedModel:
    """`model` with fresh adapters, which alone are trained: the same on every rank and in every attempt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return get_peft_model(model, _config(settings))


def _config(settings: Peft) -> PeftConfig:
    if settings.kind is PeftKind.IA3:
        scaled = ["k_proj", "v_proj", "down_proj"]  # as in the paper
        return IA3Config(target_modules=scaled, feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=[*ATTENTION, *MLP],
        use_dora=settings.kind is PeftKind.DORA,
        task_type="CAUSAL_LM",
    )


def merge(model: PeftModel | PeftMixedModel, weights: Weights, adapter: Path) -> PreTrainedModel:
    """The frozen model with the trained `weights` of its adapters merged in; the adapters are left in the folder `adapter`."""
    trained = {name: weights[name] for name, weight in model.named_parameters() if weight.requires_grad and name in weights}
    missing = {name for name, weight in model.named_parameters() if weight.requires_grad} - trained.keys()
    if missing:
        raise StageError(f"no weights were trained for {', '.join(sorted(missing)[:5])}: sft.peft is not what was trained with")
    model.load_state_dict(trained, strict=False)
    model.save_pretrained(str(adapter))
    merged: PreTrainedModel = model.merge_and_unload()  # type: ignore[operator]
    return merged
