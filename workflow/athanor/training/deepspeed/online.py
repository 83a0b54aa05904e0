"""Online RL as a task of this loop: samples are answers that the weights gave, and what one costs follows from its advantage."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from athanor.recipe.schema.online import Objective, Online
from athanor.training import policy
from athanor.training.deepspeed.model_folder import read_model, write_model
from athanor.training.deepspeed.task import Batch, ModuleTask, Rounds
from athanor.training.world import ON_CPU

ROUTER = ".mlp.gate.weight"  # how weights of routers end, in the Hugging Face forms of Qwen3-MoE and GLM-4-MoE
COMPARED = 16  # answers of a rank in a round, between engine and trainer


@dataclass(frozen=True)
class Drawn:
    """A prompt and an answer as token ids, the token that ended it among them; `log_probs` as the rollout engine told them."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    log_probs: tuple[float, ...]

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Learnable:
    """An answer that is learnt from, with its log-probabilities under the round's first weights, and the start's."""

    drawn: Drawn
    old: tuple[float, ...]
    advantage: float
    right: bool
    chosen: tuple[bool, ...]  # tokens that KL-Cov holds back
    reference: tuple[float, ...] = ()  # empty where nothing holds the policy to its start


class AnswerReader(Protocol):
    """Answers by the number of the sample, once their round is made."""

    def answer(self, sample: int) -> Learnable | None:
        """None: that sample teaches nothing, and only fills up."""
        ...


class AnswerBatches:
    """Answers behind their prompts, filled up on the right."""

    def __init__(self, reader: AnswerReader, padding: int, objective: Objective) -> None:
        self._reader, self._padding, self._objective = reader, padding, objective

    def batch(self, samples: Sequence[int]) -> Batch:
        """`input_ids`, `attention_mask` [samples, seq], and the fields of `policy.Answered`, [samples, seq - 1] or [samples]."""
        found = [self._reader.answer(sample) for sample in samples]
        rows = [_EMPTY if one is None else one for one in found]
        tensors = _ids([row.drawn for row in rows], self._padding)
        length = tensors["input_ids"].shape[1] - 1
        columns: dict[str, list[Sequence[float]]] = {
            "old": [row.old for row in rows],
            "drawn": [row.drawn.log_probs for row in rows],
            "reference": [row.reference or row.old for row in rows],
            "counts": [(float(one is not None),) * len(row.drawn.answer) for one, row in zip(found, rows, strict=True)],
            "chosen": [row.chosen or (False,) * len(row.drawn.answer) for row in rows],
        }
        begins = [len(row.drawn.prompt) - 1 for row in rows]
        tensors |= {name: torch.from_numpy(_placed(column, begins, length)) for name, column in columns.items()}
        tensors["advantages"] = torch.tensor([row.advantage for row in rows], dtype=torch.float64)
        tensors["right"] = torch.tensor([float(row.right) for row in rows])
        return Batch(tensors, policy.weights(tensors["counts"], self._objective))


_EMPTY = Learnable(Drawn((0,), (0,), (0.0,)), (0.0,), 0.0, False, (False,))


def _ids(rows: Sequence[Drawn], padding: int) -> dict[str, torch.Tensor]:
    longest = max(row.length for row in rows)
    ids = np.full((len(rows), longest), padding, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : row.length] = (*row.prompt, *row.answer)
        mask[place, : row.length] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def _placed(column: Sequence[Sequence[float]], begins: Sequence[int], length: int) -> np.ndarray:
    """[rows, length]: each row's values where its answer's tokens are predicted, zeros elsewhere."""
    found = np.zeros((len(column), length), dtype=np.float64)
    for place, (begin, values) in enumerate(zip(begins, column, strict=True)):
        found[place, begin : begin + len(values)] = values
    return found


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


def engine_off_by(module: torch.nn.Module, rows: Sequence[Drawn], padding: int, micro_batch: int) -> float:
    """How far the module is from what the engine drew tokens by, in nats: the most over about COMPARED of the rows; 0 of none."""
    some = rows[:: max(1, len(rows) // COMPARED)]
    said = answer_log_probs(module, some, padding, micro_batch)
    pairs = (pair for row, one in zip(some, said, strict=True) for pair in zip(row.log_probs, one, strict=True))
    return max((abs(drawn - found) for drawn, found in pairs), default=0.0)


def chosen_by_covariance(answers: Sequence[tuple[Sequence[float], float]], share: float) -> list[tuple[bool, ...]]:
    """Of answers, each the log-probabilities of its tokens and its advantage, the tokens that KL-Cov holds back."""
    if not answers:
        return []
    sizes = [len(said) for said, _ in answers]
    zeros = [0] * len(answers)
    old = torch.from_numpy(_placed([said for said, _ in answers], zeros, max(sizes)))
    counts = torch.from_numpy(_placed([(1.0,) * size for size in sizes], zeros, max(sizes)))
    chosen = policy.choose(old, torch.tensor([gain for _, gain in answers]), counts, share)
    return [tuple(row[:size].tolist()) for row, size in zip(chosen, sizes, strict=True)]


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
        tensors = batch.tensors
        new = _log_probs(module, tensors)
        typed = {name: tensors[name].to(new.dtype) for name in ("old", "drawn", "counts", "advantages", "right", "reference")}
        answered = policy.Answered(new=new, chosen=tensors["chosen"] > 0, **typed)
        if torch.is_grad_enabled():
            self._watched += policy.watch(answered, self._objective)
        return policy.losses(answered, self._objective)

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
        drop_norms=settings.drop_norms,
    )


def freeze(named: Iterable[tuple[str, torch.nn.Parameter]], settings: Online) -> None:
    """Leave the routers as they are, where the settings say so."""
    for name, weight in named:
        if settings.freeze_router and name.endswith(ROUTER):
            weight.requires_grad_(False)


def reference_of(start: Path) -> Callable[[], torch.nn.Module]:
    """The start's model, frozen; read when it is first asked for, and kept."""

    @cache
    def model() -> torch.nn.Module:
        whole = read_model(start).requires_grad_(False).eval()
        if not ON_CPU:
            whole = whole.bfloat16().cuda()
        assert isinstance(whole, torch.nn.Module)
        return whole

    return model
