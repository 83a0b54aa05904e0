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
    """Answers behind their prompts, filled up on the right."""

    def __init__(self, reader: AnswerReader, padding: int, objective: Objective) -> None:
        self._reader, self._padding, self._objective = reader, padding, objective

    def batch(self, samples: Sequence[int]) -> Batch:
        """`input_ids`, `attention_mask` [samples, seq], and the fields of `policy.Answered`, [samples, seq - 1] or [samples]."""
        rows = [self._reader.answer(sample) for sample in samples]
        drawn = [(FILLER if row is None else row).drawn for row in rows]
        tensors = _ids(drawn, self._padding)
        begins, length = [len(row.prompt) - 1 for row in drawn], tensors["input_ids"].shape[1] - 1
        tensors |= columns(rows, begins, length)
        return Batch(tensors, policy.weights(tensors["counts"], self._objective))


def _ids(rows: Sequence[Drawn], padding: int) -> dict[str, torch.Tensor]:
    longest = max(row.length for row in rows)
    ids = np.full((len(rows), longest), padding, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : row.length] = (*row.prompt, *row.answer)
        mask[place, : row.length] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def answer_log_probs(module: torch.nn.Module, rows: Sequence[Drawn], padding: int, size: int) -> list[tuple[float, ...]]:
    """The log-probabilities in nats of each answer's tokens under `module`, in batches of `size`; without gradients."""
    found: list[tuple[float, ...]] = []
    device = next(module.parameters()).device
    with torch.no_grad():
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            tensors = {name: tensor.to(device) for name, tensor in _ids(some, padding).items()}
            said = _log_probs(module, tensors).double().cpu().numpy()
            for row, drawn in zip(said, some, strict=True):
                at = len(drawn.prompt) - 1
                found.append(tuple(row[at : at + len(drawn.answer)].tolist()))
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
    """[samples, seq - 1] of each next token."""
    ids = tensors["input_ids"]
    logits = module(input_ids=ids, attention_mask=tensors["attention_mask"], use_cache=False).logits
    likely = logits[:, :-1].float().log_softmax(-1)
    found: torch.Tensor = likely.gather(-1, ids[:, 1:, None])[..., 0]
    return found


class PolicyLoss:
    """The loss of answers, and what is watched of it between two looks."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._watched = policy.Watched()

    def __call__(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples], as `policy.losses`."""
        found = answered(_log_probs(module, batch.tensors), dict(batch.tensors))
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
