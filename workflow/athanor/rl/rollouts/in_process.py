"""Rollouts by a batched loop over transformers' model and its key-value cache, in this process: for a CPU, and small models.

A prompt is read once and its cache repeated for its samples; answers that have ended leave the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar

from athanor.rl.rollouts.handover import checksum
from athanor.rl.rollouts.sampling import Finish, Prompt, Sample, Sampling, choose, draws, loops

TOKENS_AT_ONCE = 16_384  # of prompts and answers in the cache
COMPACT_BELOW = 0.7  # share of a batch that still talks
LOOK_FOR_LOOPS_EVERY = 16  # tokens


class InProcessEngine:
    """One model of a Hugging Face folder, in float32 on a CPU, in its own type on a GPU."""

    def __init__(self, folder: Path, ends: Sequence[int]) -> None:
        """`ends`: tokens that end an answer."""
        self._device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self._model = _load(folder, self._device)
        self._ends = torch.tensor(list(ends), device=self._device)
        self._longest = self._model.config.max_position_embeddings

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        """Batches of prompts of like length, the shortest first. Raises ValueError where a prompt and its answer have no room."""
        for prompt in prompts:
            if len(prompt.tokens) + sampling.max_new_tokens > self._longest:
                raise ValueError(
                    f"prompt {prompt.id} of {len(prompt.tokens)} tokens and {sampling.max_new_tokens} new ones are more than the "
                    f"model's {self._longest} positions; shorten it or lower max_new_tokens"
                )
        waiting = sorted(prompts, key=lambda prompt: (len(prompt.tokens), prompt.id))
        while waiting:
            count = 1
            while count < len(waiting) and self._fits(waiting[: count + 1], sampling):
                count += 1
            yield from self._answer(waiting[:count], sampling)
            waiting = waiting[count:]

    def load(self, weights: Mapping[str, torch.Tensor]) -> str:
        """Answer with other weights, whole and by the names of the folder's, from now on. Returns the sum of what it was given.

        It has them in its own type. Raises ValueError where they are not the folder's, or it does not have them afterwards.
        """
        found = dict(self._model.named_parameters())
        if odd := found.keys() ^ weights.keys():
            raise ValueError(f"these weights are of another model: {', '.join(sorted(odd)[:5])}")
        with torch.no_grad():
            for name, weight in found.items():
                given = weights[name].to(weight.device, weight.dtype)
                weight.copy_(given)
                if not torch.equal(weight, given):
                    raise ValueError(f"{name} is not what was given: memory of {weight.device} is faulty, or it is no number")
        return checksum(weights)

    def read(self, folder: Path) -> None:
        """Answer with the weights of another folder of the same model from now on."""
        self._model = None  # there may be no room for two
        self._model = _load(folder, self._device)

    def close(self) -> None:
        """Forget the model."""
        del self._model

    @staticmethod
    def _fits(prompts: Sequence[Prompt], sampling: Sampling) -> bool:
        return len(prompts) * sampling.samples * (len(prompts[-1].tokens) + sampling.max_new_tokens) <= TOKENS_AT_ONCE

    @torch.inference_mode()
    def _answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Sample]:
        rows = [(prompt, number) for prompt in prompts for number in range(sampling.samples)]
        uniform = torch.from_numpy(np.stack([draws(sampling, *row) for row in rows])).to(self._device)
        batch = _Batch(self._model, prompts, sampling.samples, self._device)
        said: list[list[int]] = [[] for _ in rows]
        log_probs: list[list[float]] = [[] for _ in rows]
        ended: dict[int, Finish] = {}
        alive = list(range(len(rows)))
        for step in range(sampling.max_new_tokens):
            tokens = choose(batch.logits, sampling, uniform[alive, step])
            chosen = batch.logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
            stops = torch.isin(tokens, self._ends).tolist()
            look = (step + 1) % LOOK_FOR_LOOPS_EVERY == 0
            for row, token, log_prob, stop in zip(alive, tokens.tolist(), chosen, stops, strict=True):
                if row in ended:
                    continue
                said[row].append(token)
                log_probs[row].append(log_prob)
                if stop:
                    ended[row] = Finish.STOP
                elif look and loops(said[row]):
                    ended[row] = Finish.LOOP
            talking = [place for place, row in enumerate(alive) if row not in ended]
            if not talking or step + 1 == sampling.max_new_tokens:
                break
            if len(talking) < COMPACT_BELOW * len(alive):
                keep = torch.tensor(talking, device=self._device)
                batch.keep(keep)
                tokens, alive = tokens[keep], [alive[place] for place in talking]
            batch.read(tokens)
        for row, (prompt, number) in enumerate(rows):
            yield Sample(prompt.id, number, tuple(said[row]), tuple(log_probs[row]), ended.get(row, Finish.LENGTH))


def _load(folder: Path, device: torch.device) -> Any:
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto" if device.type == "cuda" else torch.float32)
    return model.to(device).eval()  # type: ignore[arg-type]


class _Batch:
    """Rows that are read token by token, with their cache; shorter prompts are filled up on the left."""

    def __init__(self, model: Any, prompts: Sequence[Prompt], samples: int, device: torch.device) -> None:
        width = max(len(prompt.tokens) for prompt in prompts)
        ids = torch.tensor([[0] * (width - len(p.tokens)) + list(p.tokens) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p.tokens)) + [1] * len(p.tokens) for p in prompts], device=device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        self._model, self._cache = model, DynamicCache(config=model.config)
        self._mask, self._position = mask, positions[:, -1:]
        self.logits = self._forward(ids, positions)
        if samples > 1:
            self._cache.batch_repeat_interleave(samples)
            self.logits, self._mask, self._position = (
                part.repeat_interleave(samples, 0) for part in (self.logits, self._mask, self._position)
            )

    def read(self, tokens: torch.Tensor) -> None:
        """One more token [rows] each."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._position = self._position + 1
        self.logits = self._forward(tokens[:, None], self._position)

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all other rows."""
        self._cache.batch_select_indices(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits
