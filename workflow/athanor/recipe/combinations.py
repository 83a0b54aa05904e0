"""What fine-tuning cannot combine, of backend, layout, ZeRO and precision: each with its reason and the nearest legal choice.

`athanor recipe check` goes by this table, and `docs/deepspeed.md` prints it: python -m athanor.recipe.combinations
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

from athanor.recipe.problems import Problem
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.choices import Backend, OptimizerName, PeftKind, Precision, Recompute, SpikeAction
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Zero


@dataclass(frozen=True)
class Illegal:
    """One row: what does not go together, by the key that would have to change."""

    key: str  # dotted, in the recipe
    when: str  # in the recipe's words
    why: str
    use: str
    holds: Callable[[Recipe], bool]

    def problem(self, r: Recipe) -> Problem:
        """What the check says."""
        value = reduce(getattr, self.key.split("."), r)
        return Problem(self.key, getattr(value, "value", value), f"{self.why}; use {self.use}")


def illegal_combinations(r: Recipe) -> Iterator[Problem]:
    """Every row that holds; without tasks there is no fine-tuning."""
    yield from (row.problem(r) for row in ROWS if r.sft.tasks and row.holds(r))


def table() -> str:
    """All rows as a table of Markdown."""
    rows = [f"| `{row.key}` | {row.when} | {row.why} | {row.use} |" for row in ROWS]
    return "\n".join(["| key | illegal | because | use |", "|---|---|---|---|", *rows]) + "\n"


def _deepspeed(holds: Callable[[Recipe], bool]) -> Callable[[Recipe], bool]:
    return lambda r: r.sft.backend is Backend.DEEPSPEED and holds(r)


def _megatron(holds: Callable[[Recipe], bool]) -> Callable[[Recipe], bool]:
    return lambda r: r.sft.backend is Backend.MEGATRON and holds(r)


def _fused(holds: Callable[[Recipe], bool]) -> Callable[[Recipe], bool]:
    return _deepspeed(lambda r: r.sft.optimizer.name.is_fused and holds(r))


def _micro_batch_tokens(r: Recipe) -> int:
    return r.sft.parallel.micro_batch_size * r.sft.sequence_length * r.sft.parallel.ranks  # of all ranks at once


WITH = "`deepspeed` with "
ROWS: tuple[Illegal, ...] = (
    Illegal(
        "sft.backend", WITH + "`model.num_experts` above 0",
        "DeepSpeed trains dense models in their Hugging Face form, and this one has experts",
        "sft.backend=megatron, or model.num_experts=0",
        _deepspeed(lambda r: r.model.num_experts > 0),
    ),
    Illegal(
        "sft.parallel.tensor", WITH + "`tensor` above 1",
        "ZeRO spreads states over data ranks and cuts no matrix",
        "1 with sft.zero.stage=3, or sft.backend=megatron",
        _deepspeed(lambda r: r.sft.parallel.tensor > 1),
    ),
    Illegal(
        "sft.parallel.pipeline", WITH + "`pipeline` above 1",
        "a Hugging Face model is not cut into stages",
        "1 with sft.zero.stage=3, or sft.backend=megatron",
        _deepspeed(lambda r: r.sft.parallel.pipeline > 1),
    ),
    Illegal(
        "sft.parallel.overlap", WITH + "`overlap`",
        "ZeRO overlaps by itself where it can",
        "false",
        _deepspeed(lambda r: r.sft.parallel.overlap),
    ),
    Illegal(
        "sft.parallel.recompute", WITH + "`recompute`",
        "activations are kept",
        "none and a shorter sft.sequence_length, or sft.backend=megatron",
        _deepspeed(lambda r: r.sft.parallel.recompute is not Recompute.NONE),
    ),
    Illegal(
        "sft.precision", WITH + "an FP8 precision",
        "Hugging Face's layers multiply in fp32 or bf16",
        "bf16, or sft.backend=megatron",
        _deepspeed(lambda r: r.sft.precision not in (Precision.FP32, Precision.BF16)),
    ),
    Illegal(
        "sft.spikes.action", WITH + "`skip` or `roll_back`",
        "DeepSpeed tells a step's gradient norm when the step is done",
        "log, or sft.backend=megatron",
        _deepspeed(lambda r: r.sft.spikes.action is not SpikeAction.LOG),
    ),
    Illegal(
        "sft.freeze", WITH + "`freeze`",
        "it names weights as Megatron does",
        "[], or sft.backend=megatron",
        _deepspeed(lambda r: bool(r.sft.freeze)),
    ),
    Illegal(
        "sft.backend", WITH + "`offline.mixture`",
        "offline RL goes on from a checkpoint of Megatron's",
        "megatron, or leave offline out",
        _deepspeed(lambda r: r.learns_offline),
    ),
    Illegal(
        "sft.checkpoint.local_first", WITH + "`local_first`",
        "DeepSpeed writes its files itself, where they belong",
        "false",
        _deepspeed(lambda r: r.sft.checkpoint.local_first),
    ),
    Illegal(
        "sft.zero.stage", "`muon` with 1 or more",
        "ZeRO hands an optimizer flat parts of weights, and Muon needs matrices",
        "0, or sft.optimizer.name=adamw",
        _deepspeed(lambda r: r.sft.optimizer.name is OptimizerName.MUON and r.sft.zero.stage > 0),
    ),
    Illegal(
        "sft.precision", "`muon` with any but fp32",
        "the float32 copies of bf16 weights are DeepSpeed's to make, for rules that know single numbers",
        "fp32, or sft.optimizer.name=adamw",
        _deepspeed(lambda r: r.sft.optimizer.name is OptimizerName.MUON and r.sft.precision is not Precision.FP32),
    ),
    Illegal(
        "sft.zero.stage", "`lomo` or `adalomo` with 1 or more",
        "weights are updated while gradients come, when nothing has been summed or spread",
        "0, or sft.optimizer.name=adamw",
        _fused(lambda r: r.sft.zero.stage > 0),
    ),
    Illegal(
        "sft.parallel.ranks", "`lomo` or `adalomo` with several",
        "a rank would update by its own gradient, before it is summed over ranks",
        "1, or sft.optimizer.name=adamw",
        _fused(lambda r: r.sft.parallel.ranks > 1),
    ),
    Illegal(
        "sft.batch_tokens", "`lomo` or `adalomo` with a step of several micro-batches",
        "no gradient is kept that another could be added to",
        "sft.parallel.micro_batch_size × sft.sequence_length, without batch_switches",
        _fused(lambda r: BatchSizes.of(r.sft).largest > _micro_batch_tokens(r)),
    ),
    Illegal(
        "sft.precision", "`lomo` or `adalomo` with any but fp32",
        "no float32 weights are kept beside bf16 ones, whose updates would be rounded away",
        "fp32, or sft.optimizer.name=adamw",
        _fused(lambda r: r.sft.precision is not Precision.FP32),
    ),
    Illegal(
        "sft.optimizer.weight_decay", "`lomo` with `weight_decay`",
        "LOMO is plain gradient descent",
        "0, or sft.optimizer.name=adalomo",
        _fused(lambda r: r.sft.optimizer.name is OptimizerName.LOMO and r.sft.optimizer.weight_decay > 0),
    ),
    Illegal(
        "sft.optimizer.name", "`megatron` with any but `adamw`",
        "Megatron's distributed optimizer is AdamW here",
        "adamw, or sft.backend=deepspeed",
        _megatron(lambda r: r.sft.optimizer.name is not OptimizerName.ADAMW),
    ),
    Illegal(
        "sft.peft.kind", "`megatron` with any but `none`",
        "adapters are of models in their Hugging Face form",
        "none, or sft.backend=deepspeed",
        _megatron(lambda r: r.sft.peft.kind is not PeftKind.NONE),
    ),
    Illegal(
        "sft.peft.kind", "`prefix` or `prompt`",
        "virtual tokens cannot be merged into weights, and transformers loads no folder that has them beside its weights",
        "lora",
        _deepspeed(lambda r: r.sft.peft.kind in (PeftKind.PREFIX, PeftKind.PROMPT)),
    ),
    Illegal(
        "sft.peft.kind", "`qlora`",
        "needs a GPU and bitsandbytes, which no environment here has",
        "lora",
        _deepspeed(lambda r: r.sft.peft.kind is PeftKind.QLORA),
    ),
    Illegal(
        "sft.optimizer.name", "`muon` with `ia3`",
        "IA3 trains vectors, and Muon is for matrices",
        "adamw",
        _deepspeed(lambda r: r.sft.optimizer.name is OptimizerName.MUON and r.sft.peft.kind is PeftKind.IA3),
    ),
    Illegal(
        "sft.peft.kind", "`lomo` or `adalomo` with any but `none`",
        "they are for training all weights where their state has no room, which adapters hardly have",
        "none, or sft.optimizer.name=adamw",
        _fused(lambda r: r.sft.peft.kind not in (PeftKind.NONE, PeftKind.PREFIX, PeftKind.PROMPT, PeftKind.QLORA)),
    ),
    Illegal(
        "sft.zero.offload", "`offload` with `stage` 0",
        "nothing is spread that could be elsewhere",
        "sft.zero.stage=1, or offload=false",
        _deepspeed(lambda r: r.sft.zero.offload and not r.sft.zero.stage),
    ),
    Illegal(
        "sft.zero.stage", "`megatron` with any but 1",
        "Megatron's optimizer is always spread over data ranks, as in stage 1, and its weights by sft.parallel",
        "1, or sft.backend=deepspeed",
        _megatron(lambda r: r.sft.zero.stage != Zero().stage),
    ),
    Illegal(
        "sft.zero.offload", "`megatron` with `offload`",
        "Megatron's optimizer stays on the device",
        "false, or sft.backend=deepspeed",
        _megatron(lambda r: r.sft.zero.offload),
    ),
)  # fmt: skip


if __name__ == "__main__":
    print(table(), end="")
