"""Answers that a policy gave, and what is learnt from them: the same for every library that trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from athanor.training import policy


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


FILLER = Learnable(Drawn((0,), (0,), (0.0,)), (0.0,), 0.0, False, (False,))


def columns(rows: Sequence[Learnable | None], length: int) -> dict[str, torch.Tensor]:
    """The fields of `policy.Answered` but `new`: [samples, length], or [samples] for `advantages` and `right`.

    Zeros behind an answer's values. None counts nowhere.
    """
    found = [FILLER if row is None else row for row in rows]
    by_token: dict[str, list[Sequence[float]]] = {
        "old": [row.old for row in found],
        "drawn": [row.drawn.log_probs for row in found],
        "reference": [row.reference or row.old for row in found],
        "counts": [(float(one is not None),) * len(row.drawn.answer) for one, row in zip(rows, found, strict=True)],
        "chosen": [row.chosen or (False,) * len(row.drawn.answer) for row in found],
    }
    tensors = {name: torch.from_numpy(filled(column, length)) for name, column in by_token.items()}
    tensors["advantages"] = torch.tensor([row.advantage for row in found], dtype=torch.float64)
    tensors["right"] = torch.tensor([float(row.right) for row in found])
    return tensors


def answered(new: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> policy.Answered:
    """What `columns` gave, with the log-probabilities `new` [samples, length] of the weights that learn, in their type."""
    names = ("old", "drawn", "counts", "advantages", "right", "reference")
    typed = {name: tensors[name].to(new.dtype) for name in names}
    return policy.Answered(new=new, chosen=tensors["chosen"] > 0, **typed)


def filled(column: Sequence[Sequence[float]], length: int) -> np.ndarray:
    """[rows, length]: each row's values, zeros behind them."""
    found = np.zeros((len(column), length), dtype=np.float64)
    for place, values in enumerate(column):
        found[place, : len(values)] = values
    return found


def chosen_by_covariance(answers: Sequence[tuple[Sequence[float], float]], share: float) -> list[tuple[bool, ...]]:
    """Of answers, each the log-probabilities of its tokens and its advantage, the tokens that KL-Cov holds back."""
    if not answers:
        return []
    sizes = [len(said) for said, _ in answers]
    old = torch.from_numpy(filled([said for said, _ in answers], max(sizes)))
    counts = torch.from_numpy(filled([(1.0,) * size for size in sizes], max(sizes)))
    chosen = policy.choose(old, torch.tensor([gain for _, gain in answers]), counts, share)
    return [tuple(row[:size].tolist()) for row, size in zip(chosen, sizes, strict=True)]


def most_apart(rows: Sequence[Drawn], said: Sequence[Sequence[float]]) -> float:
    """How far what a trainer said is from what the engine drew tokens by, in nats: the most over all; 0 of none."""
    pairs = (pair for row, one in zip(rows, said, strict=True) for pair in zip(row.log_probs, one, strict=True))
    return max((abs(drawn - found) for drawn, found in pairs), default=0.0)
