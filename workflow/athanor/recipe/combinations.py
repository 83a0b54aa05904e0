"""What fine-tuning and offline RL cannot combine, of backend, layout, ZeRO and precision: each with its reason and the nearest
legal choice.

`athanor recipe check` goes by this table, and `docs/deepspeed.md` prints it: python -m athanor.recipe.combinations
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

from athanor.recipe.problems import Problem
from athanor.recipe.schedules import BatchSizes
from athanor.recipe.schema.choices import Backend, OptimizerName, PeftKind, Precision, Recompute, SpikeAction
from athanor.recipe.schema.post_training import Offline, Sft
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Zero

BACKEND = "sft.backend"  # of both sections: offline RL goes on from what fine-tuning leaves
SECTION = "SECTION"  # in a row's words: `sft` or `offline`
Holds = Callable[[Recipe, Sft | Offline], bool]


@dataclass(frozen=True)
class Illegal:
    """One row: what does not go together, by the key that would have to change."""

    key: str  # dotted, in the recipe, below SECTION where it is a section's own
    when: str  # in the recipe's words
    why: str
    use: str
    holds: Holds  # of the recipe, and one of the sections

    def told(self, section: str) -> "Illegal":
        """The same in the words of one section."""
        key, why, use = (text.replace(SECTION, section) for text in (self.key, self.why, self.use))
        return replace(self, key=key, why=why, use=use)

    def problem(self, r: Recipe, section: str) -> Problem:
        """What the check says."""
        row = self.told(section)
        value = reduce(getattr, row.key.split("."), r)
        return Problem(row.key, getattr(value, "value", value), f"{row.why}; use {row.use}")


def illegal_combinations(r: Recipe) -> Iterator[Problem]:
    """Every row that holds for a section that trains; without tasks there is no fine-tuning."""
    sections: dict[str, Sft | Offline] = {"sft": r.sft} if r.sft.tasks else {}
    if r.learns_offline:
        sections["offline"] = r.offline
    for section, settings in sections.items():
        yield from (row.problem(r, section) for row in ROWS if row.holds(r, settings))


def table() -> str:
    """All rows as a table of Markdown, in the words of `sft`."""
    rows = [f"| `{row.key}` | {row.when} | {row.why} | {row.use} |" for row in (row.told("sft") for row in ROWS)]
    return "\n".join(["| key | illegal | because | use |", "|---|---|---|---|", *rows]) + "\n"


def _deepspeed(holds: Holds) -> Holds:
    return lambda r, t: r.sft.backend is Backend.DEEPSPEED and holds(r, t)


def _megatron(holds: Holds) -> Holds:
    return lambda r, t: r.sft.backend is Backend.MEGATRON and holds(r, t)


def _fused(holds: Holds) -> Holds:
    return _deepspeed(lambda r, t: t.optimizer.name.is_fused and holds(r, t))


def _micro_batch_tokens(t: Sft | Offline) -> int:
    return t.parallel.micro_batch_size * t.sequence_length * t.parallel.ranks  # of all ranks at once


WITH = "`deepspeed` with "
ROWS: tuple[Illegal, ...] = (
    Illegal(
        BACKEND, WITH + "`model.num_experts` above 0",
        "DeepSpeed trains dense models in their Hugging Face form, and this one has experts",
        "sft.backend=megatron, or model.num_experts=0",
        _deepspeed(lambda r, _: r.model.num_experts > 0),
    ),
    Illegal(
        "SECTION.parallel.tensor", WITH + "`tensor` above 1",
        "ZeRO spreads states over data ranks and cuts no matrix",
        "1 with SECTION.zero.stage=3, or sft.backend=megatron",
        _deepspeed(lambda _, t: t.parallel.tensor > 1),
    ),
    Illegal(
        "SECTION.parallel.pipeline", WITH + "`pipeline` above 1",
        "a Hugging Face model is not cut into stages",
        "1 with SECTION.zero.stage=3, or sft.backend=megatron",
        _deepspeed(lambda _, t: t.parallel.pipeline > 1),
    ),
    Illegal(
        "SECTION.parallel.overlap", WITH + "`overlap`",
        "ZeRO overlaps by itself where it can",
        "false",
        _deepspeed(lambda _, t: t.parallel.overlap),
    ),
    Illegal(
        "SECTION.parallel.recompute", WITH + "`recompute`",
        "activations are kept",
        "none and a shorter SECTION.sequence_length, or sft.backend=megatron",
        _deepspeed(lambda _, t: t.parallel.recompute is not Recompute.NONE),
    ),
    Illegal(
        "SECTION.precision", WITH + "an FP8 precision",
        "Hugging Face's layers multiply in fp32 or bf16",
        "bf16, or sft.backend=megatron",
        _deepspeed(lambda _, t: t.precision not in (Precision.FP32, Precision.BF16)),
    ),
    Illegal(
        "SECTION.spikes.action", WITH + "`skip` or `roll_back`",
        "DeepSpeed tells a step's gradient norm when the step is done",
        "log, or sft.backend=megatron",
        _deepspeed(lambda _, t: t.spikes.action is not SpikeAction.LOG),
    ),
    Illegal(
        "SECTION.freeze", WITH + "`freeze`",
        "it names weights as Megatron does",
        "[], or sft.backend=megatron",
        _deepspeed(lambda _, t: bool(t.freeze)),
    ),
    Illegal(
        "SECTION.checkpoint.local_first", WITH + "`local_first`",
        "DeepSpeed writes its files itself, where they belong",
        "false",
        _deepspeed(lambda _, t: t.checkpoint.local_first),
    ),
    Illegal(
        "SECTION.zero.stage", "`muon` with 1 or more",
        "ZeRO hands an optimizer flat parts of weights, and Muon needs matrices",
        "0, or SECTION.optimizer.name=adamw",
        _deepspeed(lambda _, t: t.optimizer.name is OptimizerName.MUON and t.zero.stage > 0),
    ),
    Illegal(
        "SECTION.precision", "`muon` with any but fp32",
        "the float32 copies of bf16 weights are DeepSpeed's to make, for rules that know single numbers",
        "fp32, or SECTION.optimizer.name=adamw",
        _deepspeed(lambda _, t: t.optimizer.name is OptimizerName.MUON and t.precision is not Precision.FP32),
    ),
    Illegal(
        "SECTION.zero.stage", "`lomo` or `adalomo` with 1 or more",
        "weights are updated while gradients come, when nothing has been summed or spread",
        "0, or SECTION.optimizer.name=adamw",
        _fused(lambda _, t: t.zero.stage > 0),
    ),
    Illegal(
        "SECTION.parallel.ranks", "`lomo` or `adalomo` with several",
        "a rank would update by its own gradient, before it is summed over ranks",
        "1, or SECTION.optimizer.name=adamw",
        _fused(lambda _, t: t.parallel.ranks > 1),
    ),
    Illegal(
        "SECTION.batch_tokens", "`lomo` or `adalomo` with a step of several micro-batches",
        "no gradient is kept that another could be added to",
        "SECTION.parallel.micro_batch_size × SECTION.sequence_length, without batch_switches",
        _fused(lambda _, t: BatchSizes.of(t).largest > _micro_batch_tokens(t)),
    ),
    Illegal(
        "SECTION.precision", "`lomo` or `adalomo` with any but fp32",
        "no float32 weights are kept beside bf16 ones, whose updates would be rounded away",
        "fp32, or SECTION.optimizer.name=adamw",
        _fused(lambda _, t: t.precision is not Precision.FP32),
    ),
    Illegal(
        "SECTION.optimizer.weight_decay", "`lomo` with `weight_decay`",
        "LOMO is plain gradient descent",
        "0, or SECTION.optimizer.name=adalomo",
        _fused(lambda _, t: t.optimizer.name is OptimizerName.LOMO and t.optimizer.weight_decay > 0),
    ),
    Illegal(
        "SECTION.optimizer.name", "`megatron` with any but `adamw`",
        "Megatron's distributed optimizer is AdamW here",
        "adamw, or sft.backend=deepspeed",
        _megatron(lambda _, t: t.optimizer.name is not OptimizerName.ADAMW),
    ),
    Illegal(
        "SECTION.peft.kind", "`megatron` with any but `none`",
        "adapters are of models in their Hugging Face form",
        "none, or sft.backend=deepspeed",
        _megatron(lambda _, t: t.peft.kind is not PeftKind.NONE),
    ),
    Illegal(
        "SECTION.peft.kind", "`prefix`",
        "keys and values that it puts before every layer are no token's, so no folder that transformers or vLLM loads has them",
        "prompt, whose vectors are rows of the embedding",
        _deepspeed(lambda _, t: t.peft.kind is PeftKind.PREFIX),
    ),
    Illegal(
        "SECTION.zero.stage", "`qlora` with 3",
        "weights of four bits a number are cut with their scales or not at all, and ZeRO knows no scales",
        "2, or SECTION.peft.kind=lora",
        _deepspeed(lambda _, t: t.peft.kind is PeftKind.QLORA and t.zero.stage == 3),
    ),
    Illegal(
        "SECTION.optimizer.name", "`muon` with `ia3` or `prompt`",
        "these train vectors, and Muon is for the matrices between embedding and output layer",
        "adamw",
        _deepspeed(lambda _, t: t.optimizer.name is OptimizerName.MUON and t.peft.kind in (PeftKind.IA3, PeftKind.PROMPT)),
    ),
    Illegal(
        "SECTION.peft.kind", "`lomo` or `adalomo` with any but `none`",
        "they are for training all weights where their state has no room, which adapters hardly have",
        "none, or SECTION.optimizer.name=adamw",
        _fused(lambda _, t: t.peft.kind not in (PeftKind.NONE, PeftKind.PREFIX)),
    ),
    Illegal(
        "SECTION.zero.offload", "`offload` with `stage` 0",
        "nothing is spread that could be elsewhere",
        "SECTION.zero.stage=1, or offload=false",
        _deepspeed(lambda _, t: t.zero.offload and not t.zero.stage),
    ),
    Illegal(
        "SECTION.zero.stage", "`megatron` with any but 1",
        "Megatron's optimizer is always spread over data ranks, as in stage 1, and its weights by SECTION.parallel",
        "1, or sft.backend=deepspeed",
        _megatron(lambda _, t: t.zero.stage != Zero().stage),
    ),
    Illegal(
        "SECTION.zero.offload", "`megatron` with `offload`",
        "Megatron's optimizer stays on the device",
        "false, or sft.backend=deepspeed",
        _megatron(lambda _, t: t.zero.offload),
    ),
)  # fmt: skip


if __name__ == "__main__":
    print(table(), end="")
