"""Conversations as token ids, by the chat template that the exported model is served with."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast  # AutoTokenizer would import torch for 4 s

from athanor.artifacts.run import StageError
from athanor.data.conversations import Conversation
from athanor.data.packing import Encoded
from athanor.models.chat_template import chat_template
from athanor.models.virtual_tokens import names_among
from athanor.recipe.finetuning import TURN_ENDS

AT_ONCE = 256


class ChatEncoder:
    """A tokenizer's folder with the chat template."""

    def __init__(self, folder: Path) -> None:
        """Raises StageError where the tokenizer has no token that ends a turn, or none to pad with."""
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        known = self._tokenizer.get_vocab()
        self._template = chat_template(names_among(known))
        if TURN_ENDS not in known:
            raise StageError(f"{folder}: no token {TURN_ENDS}, which ends a turn; add it to tokenizer.special_tokens")
        if self._tokenizer.pad_token_id is None:
            raise StageError(f"{folder}: no token to pad with; name one in its tokenizer_config.json")
        self.padding = int(self._tokenizer.pad_token_id)
        # Their names in a text become the tokens themselves: a turn would end, or another begin.
        self.special = tuple(sorted(str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special))
        self.ends = tuple({known[TURN_ENDS], *([end] if (end := self._tokenizer.eos_token_id) is not None else [])})

    def encode(self, conversations: Iterable[Conversation]) -> Iterator[Encoded]:
        """Each conversation's ids, and which of them the assistant says (its turns' ends among them)."""
        waiting = iter(conversations)
        while some := list(islice(waiting, AT_ONCE)):
            for tools, alike in _by_tools(some):
                coded: Any = self._tokenizer.apply_chat_template(
                    [conversation.messages for conversation in alike],
                    tools=tools or None,  # type: ignore[arg-type]
                    chat_template=self._template,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
                for ids, counts in zip(coded["input_ids"], coded["assistant_masks"], strict=True):
                    yield Encoded(ids, counts)

    def prompt(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> tuple[int, ...]:
        """The ids before an answer: what training has before the first token that counts."""
        coded: Any = self._tokenizer.apply_chat_template(
            messages, tools=tools or None, chat_template=self._template, add_generation_prompt=True, return_dict=True
        )
        return tuple(coded["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without the token that ends it."""
        text: Any = self._tokenizer.decode([token for token in ids if token not in self.ends])
        return str(text)


def _by_tools(conversations: Sequence[Conversation]) -> Iterator[tuple[list[dict[str, Any]], list[Conversation]]]:
    """Runs of neighbours that have the same tools: one template call takes one set of them."""
    run: list[Conversation] = []
    for conversation in conversations:
        if run and run[-1].tools != conversation.tools:
            yield run[-1].tools, run
            run = []
        run.append(conversation)
    if run:
        yield run[-1].tools, run
