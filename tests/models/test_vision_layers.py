"""The fourth silent error of Megatron-Core (docs/training.md): without Transformer Engine its vision layers are causal.

There is no vision tower here yet. This holds the trap, and that the core attention of a CPU is ready for the cure.
"""

from collections.abc import Iterator

import pytest
import torch

from athanor.models.attention_cpu import TorchCoreAttention
from athanor.models.language_model import transformer_config
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model, Parallel
from athanor.training.layout import process_groups

PATCHES, HIDDEN = 9, 32
SHAPE = Model(
    num_layers=1, hidden_size=HIDDEN, num_attention_heads=4, num_query_groups=4, head_dim=8, num_experts=0, expert_ffn_size=48,
    vocab_size=320, max_sequence_length=PATCHES,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_rank() -> Iterator[None]:
    with process_groups(Parallel(), seed=5):
        yield


@pytest.mark.parametrize("cured", [False, True])
def test_first_patch_sees_the_last_where_the_layer_is_told_that_nothing_is_hidden(cured: bool) -> None:
    from megatron.core.models.vision.vit_layer_specs import get_vit_layer_with_local_spec
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.spec_utils import build_module

    spec = get_vit_layer_with_local_spec()
    attention = spec.submodules.self_attention
    attention.submodules.core_attention = TorchCoreAttention
    if cured:
        attention.params = {"attn_mask_type": AttnMaskType.no_mask}
    layer = build_module(spec, config=transformer_config(SHAPE, Parallel(), Precision.FP32), layer_number=1).eval()
    patches = torch.randn(PATCHES, 1, HIDDEN)
    others = torch.cat([patches[:-1], torch.randn(1, 1, HIDDEN)])
    with torch.no_grad():
        before, after = (layer(some, attention_mask=None)[0] for some in (patches, others))
    assert torch.equal(before[0], after[0]) is not cured
    assert not torch.equal(before[-1], after[-1])
