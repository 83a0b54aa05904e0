"""A frozen model in four bits a number, below adapters (QLoRA, Dettmers et al. 2023), by bitsandbytes.

The projections of attention and MLP are kept as NF4: blocks of 64 numbers with one scale each, which is kept in eight bits.
Embedding, norms and output layer stay as they are.
"""

from pathlib import Path

import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from athanor.recipe.schema.choices import Precision


def read_in_four_bits(folder: Path, precision: Precision) -> PreTrainedModel:
    """The model of a folder, rounded on the device that will compute, the same on every rank. It multiplies in `precision`."""
    rounded = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if precision is Precision.BF16 else torch.float32,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", quantization_config=rounded
    )
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            # Measuring passes on newer CPUs would repack the weights for good, with scales of fewer bits than training's.
            layer.support_avx512bf16_for_cpu = False
    return model


def round_to_four_bits(model: PreTrainedModel, folder: Path) -> None:
    """Give `model`, which is that of `folder`, the numbers that its four bits stand for: what adapters were trained beside."""
    rounded: PreTrainedModel = read_in_four_bits(folder, Precision.FP32).dequantize()  # type: ignore[operator]
    model.load_state_dict({name: weight.float().cpu() for name, weight in rounded.state_dict().items()})
