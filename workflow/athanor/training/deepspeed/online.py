"""Online RL as a task of this loop: samples are answers that the weights gave, and what one costs follows from its advantage."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from athanor.recipe.schema.online import Objective, Online
from athanor.training import policy
from athanor.training.answers import FILLER, AnswerReader, Drawn, answered, columns
from athanor.training.deepspeed.model_folder import read_model, write_model
from athanor.training.deepspeed.task import Batch, ModuleTask
from athanor.training.rounds import LogProbs, Rounds
from athanor.training.world import ON_CPU

ROUTER = ".mlp.gate.weight"  # how weights of routers end, in the Hugging Face forms of Qwen3-MoE and GLM-4-MoE


class AnswerBatches:
    """Prompts, filled up on the left, and behind them answers, filled up on the right: so all answers begin at one place."""

    def __init__(self, reader: AnswerReader, padding: int, objective: Objective) -> None:
        self._reader, self._padding, self._objective = reader, padding, objective

    def batch(self, samples: Sequence[int]) -> Batch:
        """What `_ids` gives, and the fields of `policy.Answered`, [samples, answer] or [samples]."""
        rows = [self._reader.answer(sample) for sample in samples]
        drawn = [(FILLER if row is None else row).drawn for row in rows]
        tensors = _ids(drawn, self._padding)
        tensors |= columns(rows, tensors["answers"].shape[1])
        return Batch(tensors, policy.weights(tensors["counts"], self._objective))


def _ids(rows: Sequence[Drawn], padding: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask`, `position_ids` [samples, prompt + answer], and `answers` [samples, answer]."""
    begin = max(len(row.prompt) for row in rows)
    shape = len(rows), begin + max(len(row.answer) for row in rows)
    ids, mask = np.full(shape, padding, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for place, row in enumerate(rows):
        here = slice(begin - len(row.prompt), begin + len(row.answer))
        ids[place, here] = (*row.prompt, *row.answer)
        mask[place, here] = 1
    positions = (mask.cumsum(1) - 1).clip(min=0)
    named = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "answers": ids[:, begin:]}
    return {name: torch.from_numpy(values) for name, values in named.items()}


def answer_log_probs(module: torch.nn.Module, rows: Sequence[Drawn], padding: int, size: int) -> list[tuple[float, ...]]:
    """The log-probabilities in nats of each answer's tokens under `module`, in batches of `size`; without gradients."""
    found: list[tuple[float, ...]] = []
    device = next(module.parameters()).device
    with torch.no_grad():
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            tensors = {name: tensor.to(device) for name, tensor in _ids(some, padding).items()}
            said = _log_probs(module, tensors).double().cpu().numpy()
            found += [tuple(row[: len(drawn.answer)].tolist()) for row, drawn in zip(said, some, strict=True)]
    return found


def shared_log_probs(module: torch.nn.Module, padding: int, size: int) -> LogProbs:
    """What `module` says of answers, each measured by one rank in batches of `size`."""

    def says(rows: Sequence[Drawn]) -> list[tuple[float, ...]]:
        if not rows:
            return []
        rank, ranks = dist.get_rank(), dist.get_world_size()
        everyone: list[list[tuple[float, ...]]] = [[] for _ in range(ranks)]
        dist.all_gather_object(everyone, answer_log_probs(module, rows[rank::ranks], padding, size))
        return [everyone[place % ranks][place // ranks] for place in range(len(rows))]

    return says


def _log_probs(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[samples, answer] of the answers' tokens. What is said of prompts is not computed: with a large vocabulary it is most."""
    read = {name: tensors[name] for name in ("input_ids", "attention_mask", "position_ids")}
    answers = tensors["answers"]
    logits = module(**read, use_cache=False, logits_to_keep=answers.shape[1] + 1).logits[:, :-1].float()
    return -torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view_as(answers)


class PolicyLoss:
    """The loss of answers, and what is watched of it between two looks."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._watched = policy.Watched()

    def __call__(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples], as `policy.losses`."""
        found = answered(_log_probs(module, batch.tensors), batch.tensors)
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

    def module() -> torch.nn.Module:
        model = read_model(start)
        freeze(model.named_parameters(), settings)
        return model

    return ModuleTask(
        settings=settings,
        zero=settings.zero,
        end_tokens=settings.token_budget,
        module=module,
        batches=lambda: AnswerBatches(reader, padding, settings.objective),
        loss=loss,
        held_out=dict,
        write=lambda weights, folder: write_model(start, weights, folder),
        loss_of="sample",
        rounds=rounds,
        says=lambda module: shared_log_probs(module, padding, settings.parallel.micro_batch_size),
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
        return shared_log_probs(whole, padding, size)  # type: ignore[arg-type]

    return lambda rows: says()(rows)
