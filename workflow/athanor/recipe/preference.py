"""Rules of the section `preference`, and of every section whose module DeepSpeed trains in its Hugging Face form."""

from collections.abc import Iterator

from athanor.recipe.problems import Problem
from athanor.recipe.schema.choices import OptimizerName, Precision, PreferenceKind, Recompute, SpikeAction
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Training, Zero

SPREADABLE = (OptimizerName.ADAMW, OptimizerName.LION, OptimizerName.ADAN)  # whose state ZeRO may cut anywhere


def illegal_preference(r: Recipe) -> Iterator[Problem]:
    """Everything wrong with `preference` beyond what any training may have."""
    p, where = r.preference, "preference"
    if not r.learns_preferences:
        return
    if not r.learns_offline:
        advice = "pairs are made of the answers that offline RL asks for; give offline.mixture, or use none"
        yield Problem(f"{where}.kind", p.kind.value, advice)
    if p.mixture:
        advice = "all pairs of the tasks of offline.mixture are learnt from, each as often; leave it out"
        yield Problem(f"{where}.mixture", list(p.mixture), advice)
    if p.kind is PreferenceKind.KTO and p.parallel.micro_batch_size < 2:
        advice = "kto sets each answer against another question's in its micro-batch; use 2 or more"
        yield Problem(f"{where}.parallel.micro_batch_size", p.parallel.micro_batch_size, advice)
    if p.kind is PreferenceKind.KTO and p.nll_weight:
        yield Problem(
            f"{where}.nll_weight", p.nll_weight, "an answer of kto is right or wrong, and has none beside it; use 0, or dpo"
        )
    yield from illegal_module_training(p, p.zero, where)


def illegal_module_training(t: Training, zero: Zero, section: str) -> Iterator[Problem]:
    """What a module in its Hugging Face form cannot have: DeepSpeed knows data ranks alone (docs/deepspeed.md)."""
    p = t.parallel
    sizes = {"tensor": p.tensor, "pipeline": p.pipeline, "virtual_pipeline": p.virtual_pipeline, "context": p.context}
    for name, size in {**sizes, "expert": p.expert}.items():
        if size > 1:
            advice = f"a module in its Hugging Face form is spread by {section}.zero alone; use 1"
            yield Problem(f"{section}.parallel.{name}", size, advice)
    switched = {
        "parallel.overlap": (p.overlap, "ZeRO overlaps by itself where it can; use false"),
        "checkpoint.local_first": (t.checkpoint.local_first, "DeepSpeed writes its files itself, where they belong; use false"),
        "noise_scale_every_steps": (t.noise_scale_every_steps, "gradients of single micro-batches are not kept apart; use 0"),
        "freeze": (t.freeze, "it names weights as Megatron does; leave it out"),
    }
    for name, (value, advice) in switched.items():
        if value:
            yield Problem(f"{section}.{name}", value, advice)
    if p.recompute is not Recompute.NONE:
        yield Problem(f"{section}.parallel.recompute", p.recompute.value, "activations are kept; use none")
    if t.precision not in (Precision.FP32, Precision.BF16):
        yield Problem(f"{section}.precision", t.precision.value, "Hugging Face's layers multiply in fp32 or bf16; use bf16")
    if t.spikes.action is not SpikeAction.LOG:
        advice = "DeepSpeed tells a step's gradient norm when the step is done; use log"
        yield Problem(f"{section}.spikes.action", t.spikes.action.value, advice)
    if t.optimizer.name not in SPREADABLE:
        why = "its state cannot be cut anywhere"
        if t.optimizer.name is OptimizerName.SOPHIA:
            why = "estimates curvature from labels drawn from the model, and here are none"
        advice = f"{why}; use {', '.join(SPREADABLE)}"
        yield Problem(f"{section}.optimizer.name", t.optimizer.name.value, advice)
    if zero.offload and not zero.stage:
        yield Problem(
            f"{section}.zero.offload", True, f"stage 0 spreads nothing that could be elsewhere; use {section}.zero.stage=1"
        )
