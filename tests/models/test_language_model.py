"""The Megatron model made of a recipe: its cures for silent errors, the names in its checkpoints, its CPU stand-ins."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from athanor.models.adam_cpu import GroupStepAdam
from athanor.models.attention_cpu import TorchCoreAttention
from athanor.models.experts_cpu import TorchExperts
from athanor.models.language_model import build_language_model, transformer_config
from athanor.recipe.layouts import expert_tensor_ranks
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model, Parallel
from athanor.training.layout import process_groups

SHAPE = Model(
    num_layers=2, hidden_size=32, num_attention_heads=4, num_query_groups=2, head_dim=8, num_experts=4,
    expert_ffn_size=24, vocab_size=320, max_sequence_length=64, aux_loss_coefficient=0.01, z_loss_coefficient=0.001,
)  # fmt: skip
CHECKPOINT_KEYS = {  # the names Transformer Engine's layers use, whatever layers wrote the checkpoint
    "embedding.word_embeddings.weight",
    "decoder.layers.self_attention.linear_qkv.layer_norm_weight",
    "decoder.layers.self_attention.linear_qkv.weight",
    "decoder.layers.self_attention.q_layernorm.weight",
    "decoder.layers.self_attention.k_layernorm.weight",
    "decoder.layers.self_attention.linear_proj.weight",
    "decoder.layers.pre_mlp_layernorm.weight",
    "decoder.layers.mlp.router.weight",
    "decoder.layers.mlp.experts.experts.linear_fc1.weight",
    "decoder.layers.mlp.experts.experts.linear_fc2.weight",
    "decoder.final_layernorm.weight",
    "output_layer.weight",
}


@pytest.fixture(autouse=True, scope="module")
def _one_rank() -> Iterator[None]:
    with process_groups(Parallel(), seed=5):
        yield


@pytest.mark.parametrize(
    ("parallel", "factor"),
    [
        (Parallel(), 1),
        (Parallel(micro_batch_size=4), 1),
        (Parallel(ranks=2, expert=2), 1),
        (Parallel(ranks=2, tensor=2), 2),
        (Parallel(ranks=2, context=2), 2),
        (Parallel(ranks=8, tensor=2, context=4, expert=2), 8),
    ],
)
def test_router_losses_undo_megatrons_divisions(parallel: Parallel, factor: int) -> None:
    config = transformer_config(SHAPE, parallel, Precision.FP32)
    assert config.moe_aux_loss_coeff == pytest.approx(0.01 * factor * parallel.micro_batch_size)
    assert config.moe_z_loss_coeff == pytest.approx(0.001 * factor)
    assert config.sequence_parallel == (parallel.tensor > 1)


@pytest.mark.parametrize(("expert", "expected"), [(1, 4), (2, 1)])
def test_experts_without_expert_ranks_are_cut_like_the_rest(expert: int, expected: int) -> None:
    assert expert_tensor_ranks(Parallel(ranks=8, tensor=4, expert=expert)) == expected


def _checkpoint_keys(precision: Precision = Precision.FP32) -> set[str]:
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    [model] = build_language_model(SHAPE, Parallel(), precision)
    state = model.sharded_state_dict()
    return {entry.key for entry in state.values() if isinstance(entry, ShardedTensor | ShardedTensorFactory)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="layers of a CPU: pytest on a machine without a GPU runs this")
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP8_EMULATED])
def test_checkpoint_keys_of_cpu_layers_are_transformer_engines(precision: Precision) -> None:
    assert _checkpoint_keys(precision) == CHECKPOINT_KEYS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and Transformer Engine: pytest -m gpu there")
def test_checkpoint_keys_of_transformer_engine_layers() -> None:
    assert _checkpoint_keys() == CHECKPOINT_KEYS


def test_model_gives_no_token_a_look_at_later_ones() -> None:
    [model] = build_language_model(SHAPE, Parallel())
    model.eval()
    tokens = torch.randint(SHAPE.vocab_size, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % SHAPE.vocab_size
    positions = torch.arange(16).expand(2, 16)
    with torch.no_grad():
        before, after = model(tokens, positions, None), model(changed, positions, None)
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-6)
    assert not torch.allclose(before[:, 9:], after[:, 9:], atol=1e-3)


def _attention() -> TorchCoreAttention:
    from megatron.core.transformer.enums import AttnMaskType

    config = transformer_config(SHAPE, Parallel(), Precision.FP32)
    return TorchCoreAttention(config, 1, AttnMaskType.causal, "self")


def _reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention written out; [seq, batch, heads, dim] and [seq, batch, groups, dim]."""
    share = query.size(2) // key.size(2)
    key, value = key.repeat_interleave(share, 2), value.repeat_interleave(share, 2)
    scores = torch.einsum("qbhd,kbhd->bhqk", query, key) / query.size(3) ** 0.5
    hidden = torch.ones(query.size(0), query.size(0), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,kbhd->qbhd", weights, value).reshape(query.size(0), query.size(1), -1)


def _random_heads(*lead: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(*lead, 4, 8), torch.randn(*lead, 2, 8), torch.randn(*lead, 2, 8)


def test_attention_is_the_softmax_written_out() -> None:
    heads = _random_heads(11, 3)
    assert torch.allclose(_attention()(*heads, None), _reference(*heads), atol=1e-6)


def test_attention_packed_documents_do_not_see_each_other() -> None:
    from megatron.core.packed_seq_params import PackedSeqParams

    lengths = [5, 1, 7]
    heads = _random_heads(sum(lengths))
    ends = torch.tensor([0, 5, 6, 13], dtype=torch.int32)
    packed = _attention()(*heads, None, packed_seq_params=PackedSeqParams(cu_seqlens_q=ends, cu_seqlens_kv=ends))
    apart = [
        _reference(*(part.unsqueeze(1) for part in document)) for document in zip(*(h.split(lengths) for h in heads), strict=True)
    ]
    assert torch.allclose(packed, torch.cat(apart).squeeze(1), atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the stand-in for CUDA: pytest on a machine without a GPU runs this")
def test_experts_in_one_node_are_megatrons_one_by_one() -> None:
    from megatron.core.transformer.moe.experts import SequentialMLP

    [model] = build_language_model(SHAPE, Parallel())
    experts = model.decoder.layers[0].mlp.experts
    assert isinstance(experts, TorchExperts)
    counts = torch.tensor([5, 0, 9, 3])  # an expert may get no token
    results = []
    for forward in (TorchExperts.forward, SequentialMLP.forward):
        torch.manual_seed(0)
        tokens, probs = torch.randn(17, SHAPE.hidden_size, requires_grad=True), torch.rand(17, requires_grad=True)
        output, _ = forward(experts, tokens, counts, probs)
        inputs = [tokens, probs, *experts.parameters()]
        gradients = torch.autograd.grad(output, inputs, torch.randn_like(output), allow_unused=True, materialize_grads=True)
        results.append([output, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_adam_is_torchs_adamw() -> None:
    start = [torch.randn(7, 5), torch.randn(5)]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    pair = GroupStepAdam(ours, **settings), torch.optim.AdamW(theirs, **settings)  # type: ignore[arg-type]
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True))
    assert pair[0].param_groups[0]["step"] == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="the stand-in for CUDA: pytest on a machine without a GPU runs this")
def test_loss_is_cross_entropy() -> None:
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    logits = torch.randn(6, 2, 320, requires_grad=True)
    labels = torch.randint(320, (6, 2))
    expected = F.cross_entropy(logits.permute(0, 2, 1), labels, reduction="none")
    assert torch.allclose(vocab_parallel_cross_entropy(logits.clone(), labels), expected, atol=1e-6)


def _in_a_fresh_process(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(p for p in sys.path if p)})


def test_shim_refuses_where_cuda_exists() -> None:
    _in_a_fresh_process(
        "import torch; torch.cuda.is_available = lambda: True; stream = torch.cuda.Stream\n"
        "from athanor.models import megatron_cpu\n"
        "assert megatron_cpu.install() is False and torch.cuda.Stream is stream and torch.zeros.__module__ != 'athanor'"
    )


@pytest.mark.parametrize("cured", [True, False])
def test_shim_leaves_the_meta_device_working(cured: bool) -> None:
    """transformers builds models there, and without it leaves their rotary frequencies unset."""
    take_out = "from torch.utils import _device; fill, _device._device_constructors = _device._device_constructors, set"
    _in_a_fresh_process(
        f"import torch\n{'' if cured else take_out}\n"
        "from athanor.models import megatron_cpu\n"
        "megatron_cpu.install()\n"
        f"{'' if cured else '_device._device_constructors = fill'}\n"
        f"with torch.device('meta'): assert torch.arange(3).is_meta == {cured}"
    )
