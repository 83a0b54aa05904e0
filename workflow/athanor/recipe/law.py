"""What learning rate and batch a reward model wants, by its size and its tokens: the law of POLAR (arXiv 2507.05197, section 3).

The paper says that N, D_p and D_rm are all in millions; its own two models then miss their reported settings by 10 and 40 times.
With N in millions and both D in billions the law gives them within 5 %: these are the units here.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from athanor.recipe.schema.training import Model, Training

MILLION, BILLION = 1e6, 1e9
FEW_PAIRS = 64  # a step; more come in multiples of so many, fewer in powers of two, so that they divide over ranks
Settings = TypeVar("Settings", bound=Training)


@dataclass(frozen=True)
class Advice:
    """What the law says: the peak learning rate, and pairs a step."""

    lr: float
    batch_pairs: float


def advice(parameters: float, pretrained_tokens: float, reward_tokens: float) -> Advice:
    """For a backbone of `parameters` that was pretrained on `pretrained_tokens` and learns rewards on `reward_tokens`.

    LR = 0.0002306 N^0.01125 D_p^-0.66587 D_rm^0.33916, BS = 31.9032 N^0.06944 D_rm^0.52997. Raises ValueError where one is not
    above 0.
    """
    for name, value in (("parameters", parameters), ("pretrained_tokens", pretrained_tokens), ("reward_tokens", reward_tokens)):
        if value <= 0:
            raise ValueError(f"{name}={value}: the law is a product of powers; give a number above 0")
    n, d_p, d_rm = parameters / MILLION, pretrained_tokens / BILLION, reward_tokens / BILLION
    return Advice(
        lr=0.0002306 * n**0.01125 * d_p**-0.66587 * d_rm**0.33916,
        batch_pairs=31.9032 * n**0.06944 * d_rm**0.52997,
    )


def by_law(settings: Settings, model: Model, pretrained_tokens: int) -> Settings:
    """The same with the law's rate and batch where `lr` and `batch_tokens` are 0; untrained ones as they are.

    Rounded (three digits of the rate, whole batches): what differs in the last bit between machines is no other recipe.
    """
    if not settings.token_budget or (settings.lr and settings.batch_tokens):
        return settings
    found = advice(parameters(model), pretrained_tokens, settings.token_budget)
    few = found.batch_pairs < FEW_PAIRS
    pairs = 2 ** max(0, round(math.log2(found.batch_pairs))) if few else FEW_PAIRS * round(found.batch_pairs / FEW_PAIRS)
    return replace(
        settings,
        lr=settings.lr or float(f"{found.lr:.3g}"),
        batch_tokens=settings.batch_tokens or pairs * settings.sequence_length,
    )


def parameters(model: Model) -> int:
    """Weights of matrices, all experts' among them."""
    heads, groups = (n * model.head_dim for n in (model.num_attention_heads, model.num_query_groups))
    attention = 2 * model.hidden_size * (heads + groups)
    ffns = model.num_experts + model.shared_experts if model.num_experts else 1
    layer = attention + model.hidden_size * (3 * ffns * model.expert_ffn_size + model.num_experts)
    return model.num_layers * layer + model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
