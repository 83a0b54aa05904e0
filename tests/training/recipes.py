"""Recipes small enough for a test."""

from typing import Any

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Checkpoint, Model, Parallel, Pretrain
from tests.training.synthetic import LENGTH, VOCABULARY

BATCH = 8 * LENGTH  # tokens a step


def model(**keys: Any) -> Model:
    """Two layers of four experts."""
    return Model(
        **{
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "head_dim": 8,
            "num_experts": 4,
            "expert_ffn_size": 32,
            "vocab_size": VOCABULARY,
            "max_sequence_length": LENGTH,
            **keys,
        }
    )


def recipe(
    ranks: int = 1, *, expert: int = 1, every_steps: int = 4, precision: Precision = Precision.FP32, **keys: Any
) -> Recipe:
    """Trains the chains; a checkpoint every `every_steps`. `keys` go to the pretrain section, `parallel` to the layout."""
    layout = {"ranks": ranks, "expert": expert, "micro_batch_size": 4, **keys.pop("parallel", {})}
    shape = keys.pop("model", {})
    return Recipe(
        name="test",
        seed=7,
        model=model(**shape),
        pretrain=Pretrain(
            **{
                "sequence_length": LENGTH,
                "batch_tokens": BATCH,
                "token_budget": 100 * BATCH,
                "decay_tokens": 20 * BATCH,
                "warmup_tokens": 5 * BATCH,
                "validate_every_tokens": 6 * BATCH,
                "log_every_steps": 3,
                "lr": 5e-3,
                "precision": precision,
                "parallel": Parallel(**layout),
                "checkpoint": Checkpoint(every_tokens=every_steps * BATCH, keep=2),
                **keys,
            }
        ),
    )
