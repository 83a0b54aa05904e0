"""Prompt tuning (Lester et al. 2021) through `peft`: vectors before every conversation are trained, all weights are frozen.

Windows name them by ids that no text has (`models/virtual_tokens.py`), so that each conversation of a packed window sees them
and nothing of another. The trained vectors become rows of the embedding of an ordinary folder, which says the same.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PromptTuningConfig, PromptTuningInit, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from athanor.artifacts.run import StageError
from athanor.models.virtual_tokens import VirtualTokenError, add_virtual_tokens, spare_ids, virtual_ids
from athanor.training.rounds import Weights

SEED = 0  # of the words that vectors begin as
TRAINED = "prompt.weight"


class PromptTuned(torch.nn.Module):
    """A frozen language model whose ids `first`, `first` + 1 … are embedded by vectors of their own, [tokens, hidden]."""

    def __init__(self, model: PreTrainedModel, vectors: torch.nn.Embedding, first: int) -> None:
        super().__init__()
        self.model, self.prompt = model, vectors
        self._first = first

    def forward(self, input_ids: torch.Tensor, **others: Any) -> Any:
        """What `model` says of `input_ids` [windows, seq]."""
        number = input_ids - self._first
        virtual = (number >= 0) & (number < self.prompt.num_embeddings)
        words = self.model.get_input_embeddings()(input_ids)
        vectors = self.prompt(number.clamp(0, self.prompt.num_embeddings - 1))
        return self.model(inputs_embeds=torch.where(virtual[..., None], vectors, words), **others)


def first_ids(start: Path, tokens: int) -> tuple[int, ...]:
    """The ids of the virtual tokens: those that the folder `start` has, or else spare ones. Raises StageError without room."""
    try:
        ids = virtual_ids(start) or spare_ids(start, tokens, _rows(start))
    except VirtualTokenError as error:
        raise StageError(str(error)) from error
    if len(ids) != tokens:
        raise StageError(f"{start} has {len(ids)} virtual tokens, and peft.tokens={tokens}; use {len(ids)}")
    return ids


def prompt_tuned(model: PreTrainedModel, ids: tuple[int, ...], *, fresh: bool) -> PromptTuned:
    """`model` with trainable vectors: `fresh` ones, which begin as words drawn from the vocabulary, or those of the rows `ids`.

    The same on every rank and in every attempt.
    """
    vectors = _adapter(model, len(ids)).prompt_encoder["default"].embedding
    if not fresh:
        words = model.get_input_embeddings()
        assert isinstance(words, torch.nn.Embedding)
        vectors.weight = torch.nn.Parameter(words.weight[list(ids)].detach().clone())
    return PromptTuned(model, vectors, ids[0])


def _adapter(model: PreTrainedModel, tokens: int) -> Any:
    """peft's model around `model`, which it freezes."""
    config = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=tokens, prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        adapter = get_peft_model(model, config)
    assert isinstance(adapter, PeftModel)
    return adapter


def write_with_rows(model: PreTrainedModel, weights: Weights, start: Path, folder: Path, adapter: Path) -> None:
    """Fill `folder`, which has the tokenizer of `start`, with the frozen `model` and the trained vectors as rows of its
    embedding; and the folder `adapter` with what peft loads beside `start`.

    A tied output layer keeps the rows that it had, so the folder's is its own from here on. Raises StageError.
    """
    vectors = weights[TRAINED]
    ids = first_ids(start, len(vectors))
    beside = _adapter(model, len(ids))
    beside.prompt_encoder["default"].embedding.weight = torch.nn.Parameter(vectors.clone())
    beside.save_pretrained(str(adapter))
    config = AutoConfig.from_pretrained(start, dtype=torch.float32, tie_word_embeddings=False)
    whole = AutoModelForCausalLM.from_config(config)
    whole.load_state_dict({**model.state_dict(), "lm_head.weight": model.get_output_embeddings().weight.detach()})
    with torch.no_grad():
        whole.get_input_embeddings().weight[list(ids)] = vectors
    whole.save_pretrained(folder)
    if not virtual_ids(folder):
        add_virtual_tokens(folder, len(ids), _rows(start))


def _rows(folder: Path) -> int:
    return int(AutoConfig.from_pretrained(folder).vocab_size)
