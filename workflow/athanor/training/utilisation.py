"""Model FLOPs utilisation against a named peak: what the model's own arithmetic takes of what the device could do."""

from dataclasses import dataclass

import torch

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model

# Dense, TFLOP/s, from NVIDIA's data sheets (which print twice as much, with sparsity): BF16, FP8. FP32 is never trained on these.
PEAKS = {
    "NVIDIA A100-SXM4-80GB": (312.0, None),
    "NVIDIA H100 80GB HBM3": (989.4, 1978.9),
    "NVIDIA H100 NVL": (835.5, 1670.5),
    "NVIDIA H100 PCIe": (756.0, 1513.0),
    "NVIDIA H200": (989.4, 1978.9),
}


@dataclass(frozen=True)
class Peak:
    """What one rank's device does at most, and whose word that is."""

    name: str
    flops_per_second: float


def known_peak(precision: Precision, given_tflops: float) -> Peak | None:
    """The peak that the site gives, or the data sheet of this rank's GPU; None where nobody knows one."""
    if given_tflops:
        return Peak(f"{given_tflops:g} TFLOP/s a rank, the site's peak_tflops", given_tflops * 1e12)
    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_name()
    bf16, fp8 = PEAKS.get(device, (None, None))
    kind, tflops = ("FP8", fp8) if precision.is_fp8 else ("BF16", bf16)
    return Peak(f"{device}, {kind} dense, {tflops:g} TFLOP/s", tflops * 1e12) if tflops else None


def flops_per_token(model: Model, sequence_length: int) -> float:
    """Of a forward and a backward pass: 6 for each weight a token is multiplied with, and 6 x heads x width x sequence a
    layer for causal attention (half of PaLM's 12, appendix B, which counts what the mask hides). Recomputing counts as nothing.
    """
    heads = model.num_attention_heads * model.head_dim
    attention = model.hidden_size * (2 * heads + 2 * model.num_query_groups * model.head_dim)
    at_once = model.experts_per_token + model.shared_experts if model.num_experts else 1
    experts = at_once * 3 * model.hidden_size * model.expert_ffn_size
    router = model.hidden_size * model.num_experts
    layer = 6.0 * (attention + experts + router) + 6.0 * heads * sequence_length
    return model.num_layers * layer + 6.0 * model.hidden_size * model.vocab_size
