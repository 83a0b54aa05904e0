"""The chat template: what transformers writes with it is what is trained on, and what is learnt is what the assistant says."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PretrainedConfig

from athanor.artifacts.run import StageError
from athanor.data.bpe import save, train
from athanor.data.chat import ChatEncoder
from athanor.data.conversations import Conversation
from athanor.models.chat_template import CHAT_TEMPLATE
from athanor.recipe.schema.recipe import Tokenizer

TOOLS = [{"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}]
CONVERSATIONS = [
    Conversation("one", [{"role": "user", "content": "Name CCO."}, {"role": "assistant", "content": "ethanol"}]),
    Conversation(
        "thinks",
        [
            {"role": "system", "content": "You are a chemist."},
            {"role": "user", "content": "Name CC."},
            {"role": "assistant", "content": "ethane", "reasoning_content": "Two carbons."},
            {"role": "user", "content": "And C?"},
            {"role": "assistant", "content": "methane"},
        ],
    ),
    Conversation(
        "calls",
        [
            {"role": "user", "content": "Weigh CCO."},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weigh", "arguments": {"of": "CCO"}}}]},
            {"role": "tool", "content": "46.07"},
            {"role": "assistant", "content": "46.07 g/mol"},
        ],
        TOOLS,
    ),
]
SAID = {
    "one": "ethanol<|im_end|>",
    "thinks": "<think>\nTwo carbons.\n</think>\n\nethane<|im_end|>methane<|im_end|>",
    "calls": '<tool_call>\n{"name": "weigh", "arguments": {"of": "CCO"}}\n</tool_call><|im_end|>46.07 g/mol<|im_end|>',
}


def tokenizer(folder: Path, **keys: object) -> Path:
    recipe = Tokenizer(vocab_size=300, **keys)  # type: ignore[arg-type]
    folder.mkdir()
    save(train(["Name ethanol, ethane, methane: CCO CC C. You are a chemist."], recipe), recipe, folder)
    return folder


def test_what_is_learnt_is_what_the_assistant_says(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "bpe")
    plain = AutoTokenizer.from_pretrained(folder, config=PretrainedConfig())
    for conversation, coded in zip(CONVERSATIONS, ChatEncoder(folder).encode(CONVERSATIONS), strict=True):
        tools = conversation.tools or None
        text = plain.apply_chat_template(conversation.messages, tools=tools, chat_template=CHAT_TEMPLATE, tokenize=False)
        assert plain.decode(coded.ids) == text
        assert list(coded.ids) == plain(text, add_special_tokens=False)["input_ids"]
        said = [token for token, counts in zip(coded.ids, coded.counts, strict=True) if counts]
        assert plain.decode(said) == SAID[conversation.id]


def test_generation_goes_on_where_the_training_text_answers(tmp_path: Path) -> None:
    """A prompt in service is a prefix of the text that was trained on, up to the first token that was learnt."""
    folder = tokenizer(tmp_path / "bpe")
    plain = AutoTokenizer.from_pretrained(folder, config=PretrainedConfig())
    for conversation, coded in zip(CONVERSATIONS, ChatEncoder(folder).encode(CONVERSATIONS), strict=True):
        roles = [message["role"] for message in conversation.messages]
        asked = conversation.messages[: roles.index("assistant")]
        prompt = plain.apply_chat_template(
            asked, tools=conversation.tools or None, chat_template=CHAT_TEMPLATE, add_generation_prompt=True
        )["input_ids"]
        assert list(coded.ids[: len(prompt)]) == prompt
        assert list(coded.counts[: len(prompt) + 1]) == [0] * len(prompt) + [1]


def test_tokenizer_without_the_end_of_a_turn_is_refused(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "bpe", special_tokens=["<|endoftext|>", "<|pad|>"])
    with pytest.raises(StageError, match=r"no token <\|im_end\|>, which ends a turn; add it to tokenizer.special_tokens"):
        ChatEncoder(folder)
