"""What a module says of answers. Where many of them answer one prompt, that is read once, and its keys and values serve them all.

Then an answer costs its own tokens alone, forward and backward; what is learnt is the same, but for the order of sums. Ranks may
differ in how many passes they make: under ZeRO 0 to 2, which online RL takes, none waits for another within one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoConfig, DynamicCache
from transformers.cache_utils import DynamicLayer

from athanor.training.answers import Drawn
from athanor.training.rounds import LogProbs

WORTH = 0.75  # of the tokens that whole rows have: what a second pass must not exceed


def reads_prompts_once(start: Path) -> bool:
    """Whether a model of the folder `start` can: all its layers attend to all that came before."""
    cache = DynamicCache(config=AutoConfig.from_pretrained(start))
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def tensors_of(rows: Sequence[Drawn], padding: int, *, once: bool) -> dict[str, torch.Tensor]:
    """What `log_probs` reads: `answers` [samples, answer], filled up on the right, and the prompts in one of two forms.

    In whole rows, prompts filled up on the left, so that all answers begin at one place: `input_ids`, `attention_mask`,
    `position_ids` [samples, prompt + answer]. Or, where `once` and it is worth it, each prompt by itself: `prompt_ids`,
    `prompt_mask`, `prompt_positions` [prompts, prompt]; `prompt_of` [samples], its row; `position_ids` [samples, answer - 1] of
    what answers read of themselves, `attention_mask` [samples, prompt + answer - 1].
    """
    places: dict[tuple[int, ...], int] = {}
    prompt_of = [places.setdefault(row.prompt, len(places)) for row in rows]
    begin, longest = max(map(len, places)), max(len(row.answer) for row in rows)
    answers, mask = np.full((len(rows), longest), padding, dtype=np.int64), np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        answers[place, : len(row.answer)], mask[place, : len(row.answer)] = row.answer, 1
    prompts, prompts_mask = np.full((len(places), begin), padding, dtype=np.int64), np.zeros((len(places), begin), dtype=np.int64)
    for prompt, place in places.items():
        prompts[place, begin - len(prompt) :], prompts_mask[place, begin - len(prompt) :] = prompt, 1
    whole = np.concatenate([prompts_mask[prompt_of], mask], axis=1)
    positions = _positions(whole)
    if once and prompts.size + mask[:, 1:].size <= WORTH * whole.size:
        named = {"prompt_ids": prompts, "prompt_mask": prompts_mask, "prompt_positions": _positions(prompts_mask)}
        named |= {"prompt_of": np.array(prompt_of), "position_ids": positions[:, begin:-1], "attention_mask": whole[:, :-1]}
    else:
        ids = np.concatenate([prompts[prompt_of], answers], axis=1)
        named = {"input_ids": ids, "position_ids": positions, "attention_mask": whole}
    return {name: torch.from_numpy(values) for name, values in {**named, "answers": answers}.items()}


def _positions(mask: np.ndarray) -> np.ndarray:
    return (mask.cumsum(1) - 1).clip(min=0)


def log_probs(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[samples, answer] of the answers' tokens, in nats. What is said of prompts is not computed: with a large vocabulary it is
    most."""
    answers = tensors["answers"]
    logits = (_logits_behind_prompts if "prompt_ids" in tensors else _logits_of_rows)(module, tensors).float()
    return -torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view_as(answers)


def _logits_of_rows(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    read = {name: tensors[name] for name in ("input_ids", "attention_mask", "position_ids")}
    logits: torch.Tensor = module(**read, use_cache=False, logits_to_keep=tensors["answers"].shape[1] + 1).logits
    return logits[:, :-1]


def _logits_behind_prompts(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Gradients go through the keys and values that a prompt's answers have in common."""
    prompt = {"input_ids": "prompt_ids", "attention_mask": "prompt_mask", "position_ids": "prompt_positions"}
    inside: torch.nn.Module = getattr(module, "module", module)  # DeepSpeed's engine counts one pass for each backward
    read = inside(**{name: tensors[key] for name, key in prompt.items()}, use_cache=True, logits_to_keep=1)
    first = read.logits.index_select(0, tensors["prompt_of"])
    if not tensors["position_ids"].shape[1]:
        return first  # type: ignore[no-any-return]
    # Gradients of answers are summed one after the other in both selections: by indexing, threads of a CPU add in any order.
    read.past_key_values.reorder_cache(tensors["prompt_of"])
    rest = module(
        input_ids=tensors["answers"][:, :-1],
        attention_mask=tensors["attention_mask"],
        position_ids=tensors["position_ids"],
        past_key_values=read.past_key_values,
        use_cache=True,
    )
    return torch.cat([first, rest.logits], dim=1)


def answer_log_probs(
    module: torch.nn.Module, rows: Sequence[Drawn], padding: int, *, once: bool = False
) -> list[tuple[float, ...]]:
    """The log-probabilities in nats of each answer's tokens under `module`, in one batch; without gradients."""
    device = next(module.parameters()).device
    with torch.no_grad():
        tensors = {name: tensor.to(device) for name, tensor in tensors_of(rows, padding, once=once).items()}
        said = log_probs(module, tensors).double().cpu().numpy()
    return [tuple(row[: len(drawn.answer)].tolist()) for row, drawn in zip(said, rows, strict=True)]


def shared_log_probs(module: torch.nn.Module, padding: int, size: int, *, once: bool) -> LogProbs:
    """What `module` says of answers, each measured by one rank, in batches of `size`; read as in training, which matters in BF16.

    So the answers of a prompt go together where it is read `once`; otherwise those that stand together.
    """

    def says(rows: Sequence[Drawn]) -> list[tuple[float, ...]]:
        if not rows:
            return []
        first: dict[tuple[int, ...], int] = {}
        groups = [first.setdefault(row.prompt, place) for place, row in enumerate(rows)]
        order = sorted(range(len(rows)), key=groups.__getitem__) if once else list(range(len(rows)))
        batches = [order[begin : begin + size] for begin in range(0, len(rows), size)]
        own: dict[int, tuple[float, ...]] = {}
        for batch in batches[dist.get_rank() :: dist.get_world_size()]:
            own |= zip(batch, answer_log_probs(module, [rows[place] for place in batch], padding, once=once), strict=True)
        everyone: list[dict[int, tuple[float, ...]]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, own)
        together = {place: said for some in everyone for place, said in some.items()}
        return [together[place] for place in range(len(rows))]

    return says
