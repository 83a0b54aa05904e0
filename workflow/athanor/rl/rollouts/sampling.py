"""What is asked of a rollout engine and what it gives back, and how a token is drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

LOOP_REPEATS, LOOP_PERIOD, LOOP_TOKENS = 4, 64, 24  # so often the same, at most so long, at least so much in all


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # by a token that ends a turn
    LENGTH = "length"  # cut off
    LOOP = "loop"  # it said the same again and again


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. A temperature of 0 takes the likeliest; top_p and top_k cut the others' tail."""

    samples: int = 1  # a prompt
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    max_new_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Prompt:
    """A question as token ids. Its id, not its place, decides what is drawn for it."""

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """An answer. Its tokens include the one that ended it; log-probabilities are the model's own, at temperature 1 and uncut."""

    prompt: str
    number: int  # among the samples of its prompt
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish: Finish


class Engine(Protocol):
    """Answers prompts with one model."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        """Every sample of every prompt, in any order."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def draws(sampling: Sampling, prompt: Prompt, number: int) -> NDArray[np.float64]:
    """[max_new_tokens] numbers in [0, 1), one a token: the same for this sample in any batch and on any machine."""
    key = blake2b(f"{sampling.seed}\0{prompt.id}\0{number}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(sampling.max_new_tokens)


def choose(logits: torch.Tensor, sampling: Sampling, uniform: torch.Tensor) -> torch.Tensor:
    """[rows] tokens from `logits` [rows, vocabulary], each the one that its number of `uniform` [rows] falls on."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    odds = (logits.double() / sampling.temperature).softmax(-1)
    if sampling.top_k == 0 and sampling.top_p >= 1:
        return _falls_on(odds, uniform)
    ranked, tokens = odds.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ranked[:, sampling.top_k :] = 0
    before = ranked.cumsum(-1) - ranked
    ranked = ranked.masked_fill(before >= sampling.top_p * ranked.sum(-1, keepdim=True), 0)
    return tokens.gather(-1, _falls_on(ranked, uniform)[:, None])[:, 0]


def _falls_on(odds: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    edges = odds.cumsum(-1)
    place = torch.searchsorted(edges, (uniform.to(edges) * edges[:, -1])[:, None], right=True)[:, 0]
    last = (odds > 0).cumsum(-1).argmax(-1)  # rounding may not put a draw behind the last token that can be drawn
    return torch.minimum(place, last)


def loops(tokens: Sequence[int]) -> bool:
    """Whether an answer ends in one stretch of at most LOOP_PERIOD tokens said LOOP_REPEATS times, LOOP_TOKENS in all."""
    said = np.asarray(tokens)
    for period in range(1, LOOP_PERIOD + 1):
        span = max(LOOP_REPEATS * period, LOOP_TOKENS)
        if span > len(said):
            return False
        tail = said[-span:]
        if (tail[period:] == tail[:-period]).all():
            return True
    return False
