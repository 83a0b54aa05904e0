"""The language model: Megatron-Core's GPTModel with MoE or dense layers, made from the recipe; TE's on a GPU, local on a CPU.

RMSNorm, SwiGLU, rotary positions, grouped-query attention with normalised queries and keys, and dropless top-k
routing. Checkpoint keys are the same for both kinds of layers.
"""

# ruff: noqa: E402 (the CPU shim must be in place before megatron.core is imported)
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

import torch.nn.functional as F

from athanor.models import megatron_cpu

ON_CPU = megatron_cpu.install()

from megatron.core import parallel_state
from megatron.core.fp8_utils import is_first_last_bf16_layer
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from athanor.models.attention_cpu import TorchCoreAttention
from athanor.models.experts_cpu import TorchExperts
from athanor.models.fp8_emulated import BlockScaling
from athanor.models.linear_cpu import BlockScaledColumnParallelLinear, BlockScaledRowParallelLinear
from athanor.models.precision import EMULATED, Bf16Layers, Machine, precision_fields, refuse_unless_possible
from athanor.recipe.layouts import expert_tensor_ranks
from athanor.recipe.schema.choices import Balance, Precision, Recompute, Router
from athanor.recipe.schema.training import Model, Parallel


def build_language_model(
    model: Model, parallel: Parallel, precision: Precision = Precision.FP32, kept: Bf16Layers | None = None
) -> list[GPTModel | Float16Module]:
    """This rank's chunks of the model (one, unless the pipeline is interleaved), freshly initialised, without data
    parallelism; all share one config. Of an FP8 precision the layers `kept` stay in BF16.

    Process groups for `parallel` must exist (`athanor.training.layout`). Called with tokens [batch, seq], positions
    [batch, seq], no mask and (optionally) labels, the last chunk of the last stage returns logits [batch, seq, vocab]
    or losses [batch, seq]. Raises PrecisionError.
    """
    refuse_unless_possible(precision, Machine.this())
    config = transformer_config(model, parallel, precision, kept)
    chunks = []
    for number in range(parallel.virtual_pipeline):
        chunk = GPTModel(
            config,
            layer_spec(config, number, EMULATED.get(precision)),
            vocab_size=model.vocab_size,
            max_sequence_length=model.max_sequence_length,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=number),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=number),
            share_embeddings_and_output_weights=model.tie_embeddings,
            position_embedding_type="rope",
            rotary_base=model.rope_base,
            vp_stage=number if parallel.virtual_pipeline > 1 else None,
        )
        if not ON_CPU:
            chunk.cuda()
        chunks.append(Float16Module(config, chunk) if config.bf16 else chunk)
    return chunks


def transformer_config(
    model: Model, parallel: Parallel, precision: Precision, kept: Bf16Layers | None = None
) -> TransformerConfig:
    """The recipe in Megatron's words."""
    sequence_parallel = parallel.tensor > 1  # Megatron demands it of MoE layers
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.expert_ffn_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        qk_layernorm=model.qk_norm,
        init_method_std=model.init_std,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=interleaved(parallel),
        # Of two stages each is the other's next and previous. Batched, what they send each other is matched by its order
        # alone, and the interleaved schedule then takes gradients for activations, silently: send one by one.
        overlap_p2p_comm=interleaved(parallel) is not None,
        batch_p2p_comm=interleaved(parallel) is None,
        account_for_embedding_in_pipeline_split=parallel.ends_count_as_layers,
        account_for_loss_in_pipeline_split=parallel.ends_count_as_layers,
        context_parallel_size=parallel.context,
        sequence_parallel=sequence_parallel,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        # Sums of losses over sums of tokens: exact for any number of ranks and micro-batches.
        calculate_per_token_loss=True,
        **_experts(model, parallel),
        use_cpu_initialization=ON_CPU,
        **precision_fields(precision, kept or Bf16Layers(), parallel),
        **_recompute(parallel),
    )


def _experts(model: Model, parallel: Parallel) -> dict[str, Any]:
    ranks = {
        "expert_model_parallel_size": parallel.expert,
        "expert_tensor_parallel_size": expert_tensor_ranks(parallel),
    }
    if not model.num_experts:
        return ranks
    # With calculate_per_token_loss the router scales its losses by the rank's own tokens (moe/router.py,
    # attach_and_log_load_balancing_loss), so sequence and context parallelism divide them: undo that. The loss by
    # sequence it scales by the tokens of one sequence instead of the micro-batch (get_tokens_per_expert_and_token_count
    # counts the rows of [seq, batch * experts]): undo that too, else the micro-batch size would decide its strength.
    cut = parallel.context * parallel.tensor
    sequences = parallel.micro_batch_size if model.balance is Balance.SEQUENCE else 1
    loss_free = model.router is Router.LOSS_FREE
    return {
        **ranks,
        "num_moe_experts": model.num_experts,
        "moe_router_topk": model.experts_per_token,
        # Softmax over the chosen experts; Megatron wants it over all of them where only one is chosen.
        "moe_router_pre_softmax": model.experts_per_token == 1,
        "moe_ffn_hidden_size": model.expert_ffn_size,
        "moe_router_load_balancing_type": model.balance.value,
        "moe_aux_loss_coeff": model.aux_loss_coefficient * cut * sequences,
        "moe_z_loss_coeff": model.z_loss_coefficient * cut or None,
        "moe_router_dtype": "fp32",
        "moe_router_score_function": "sigmoid" if loss_free else "softmax",
        "moe_router_enable_expert_bias": loss_free,
        "moe_router_bias_update_rate": model.expert_bias_rate,
        "moe_shared_expert_intermediate_size": model.shared_experts * model.expert_ffn_size or None,
        "moe_token_dispatcher_type": parallel.dispatch.value,
        "moe_grouped_gemm": not ON_CPU,
    }


def interleaved(parallel: Parallel) -> int | None:
    """Chunks a pipeline stage, in Megatron's words: None for one."""
    return parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None


def _recompute(parallel: Parallel) -> dict[str, Any]:
    if parallel.recompute is Recompute.FULL:
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    if parallel.recompute is Recompute.SELECTIVE:
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return {}


def layer_spec(config: TransformerConfig, chunk: int = 0, emulated: BlockScaling | None = None) -> Any:
    """The layers of a chunk of this pipeline stage: Transformer Engine's on a GPU, Megatron's own with torch's attention
    on a CPU, which multiply block-scaled where FP8 is `emulated` and the layer is none that stays in BF16."""
    number = chunk if config.virtual_pipeline_model_parallel_size else None
    spec = get_gpt_decoder_block_spec(config, use_transformer_engine=not ON_CPU, normalization="RMSNorm", vp_stage=number)
    if ON_CPU:
        first = get_transformer_layer_offset(config, vp_stage=number)
        spec.layer_specs = [deepcopy(layer) for layer in spec.layer_specs]  # Megatron's are one and the same
        for layer_number, layer in enumerate(spec.layer_specs, start=first):
            if config.num_moe_experts:
                # In Transformer Engine's MoE layer this norm keeps its own name, in its dense layer it is part of
                # linear_fc1: name it so in checkpoints here too.
                layer.submodules.sharded_state_dict_keys_map.pop("pre_mlp_layernorm.", None)
            eight_bits = emulated if not is_first_last_bf16_layer(config, layer_number) else None
            replace_in_spec(layer, _block_scaled(eight_bits) if eight_bits else {SequentialMLP: TorchExperts})
        replace_in_spec(spec, {DotProductAttention: TorchCoreAttention})
    return spec


def _block_scaled(scaling: BlockScaling) -> dict[Any, Any]:
    """Attention's and the experts' matrices; experts run one by one, as Megatron runs them."""
    return {
        ColumnParallelLinear: ModuleSpec(module=BlockScaledColumnParallelLinear, params={"scaling": scaling}),
        RowParallelLinear: ModuleSpec(module=BlockScaledRowParallelLinear, params={"scaling": scaling}),
    }


def replace_in_spec(spec: Any, replacements: dict[Any, Any]) -> None:
    """Put other modules in the place of some, everywhere in a layer or block spec."""
    if isinstance(spec, list | tuple):
        for item in spec:
            replace_in_spec(item, replacements)
    elif is_dataclass(spec) and not isinstance(spec, type):
        for f in fields(spec):
            value = getattr(spec, f.name)
            if isinstance(value, type) and value in replacements:
                setattr(spec, f.name, replacements[value])
            else:
                replace_in_spec(value, replacements)
