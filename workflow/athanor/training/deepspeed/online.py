"""Online RL as a task of this loop: samples are answers that the weights gave, and what one costs follows from its advantage."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch

from athanor.recipe.schema.online import Objective, Online
from athanor.training import policy
from athanor.training.answers import FILLER, AnswerReader, answered, columns
from athanor.training.deepspeed.answer_log_probs import log_probs, reads_prompts_once, shared_log_probs, tensors_of
from athanor.training.deepspeed.model_folder import read_model, write_model
from athanor.training.deepspeed.task import Batch, ModuleTask
from athanor.training.rounds import LogProbs, Rounds
from athanor.training.world import ON_CPU

ROUTER = ".mlp.gate.weight"  # how weights of routers end, in the Hugging Face forms of Qwen3-MoE and GLM-4-MoE


class AnswerBatches:
    """Answers with their prompts, each prompt `once` where many answer it."""

    def __init__(self, reader: AnswerReader, padding: int, objective: Objective, *, once: bool) -> None:
        self._reader, self._padding, self._objective, self._once = reader, padding, objective, once

    def batch(self, samples: Sequence[int]) -> Batch:
        """What `tensors_of` gives, and the fields of `policy.Answered`, [samples, answer] or [samples]."""
        rows = [self._reader.answer(sample) for sample in samples]
        drawn = [(FILLER if row is None else row).drawn for row in rows]
        tensors = tensors_of(drawn, self._padding, once=self._once)
        tensors |= columns(rows, tensors["answers"].shape[1])
        return Batch(tensors, policy.weights(tensors["counts"], self._objective))


class PolicyLoss:
    """The loss of answers, and what is watched of it between two looks."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._watched = policy.Watched()

    def __call__(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples], as `policy.losses`."""
        found = answered(log_probs(module, batch.tensors), batch.tensors)
        if torch.is_grad_enabled():
            self._watched += policy.watch(found, self._objective)
        return policy.losses(found, self._objective)

    def taken(self) -> policy.Watched:
        """What was watched since the last look."""
        taken, self._watched = self._watched, policy.Watched()
        return taken


def online_learning(
    settings: Online, start: Path, padding: int, reader: AnswerReader, rounds: Rounds, loss: PolicyLoss
) -> ModuleTask:
    """The task of training the folder `start` on the answers of `rounds`, which `reader` reads, to the end of the budget."""

    once = reads_prompts_once(start)

    def module() -> torch.nn.Module:
        model = read_model(start)
        freeze(model.named_parameters(), settings)
        return model

    return ModuleTask(
        settings=settings,
        zero=settings.zero,
        end_tokens=settings.token_budget,
        module=module,
        batches=lambda: AnswerBatches(reader, padding, settings.objective, once=once),
        loss=loss,
        held_out=dict,
        write=lambda weights, folder: write_model(start, weights, folder),
        loss_of="sample",
        rounds=rounds,
        says=lambda module: shared_log_probs(module, padding, settings.parallel.micro_batch_size, once=once),
        drop_norms=settings.drop_norms,
    )


def freeze(named: Iterable[tuple[str, torch.nn.Parameter]], settings: Online) -> None:
    """Leave the routers as they are, where the settings say so."""
    for name, weight in named:
        if settings.freeze_router and name.endswith(ROUTER):
            weight.requires_grad_(False)


def reference_of(start: Path, padding: int, size: int) -> LogProbs:
    """What the start's model says of answers; it is read when it is first asked, and kept."""

    @cache
    def says() -> LogProbs:
        whole = read_model(start).requires_grad_(False).eval()
        if not ON_CPU:
            whole = whole.bfloat16().cuda()
        return shared_log_probs(whole, padding, size, once=reads_prompts_once(start))  # type: ignore[arg-type]

    return lambda rows: says()(rows)
