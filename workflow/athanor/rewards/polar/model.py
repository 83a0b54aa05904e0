"""The reward model: a Hugging Face decoder whose last token's state becomes one number, in a folder that transformers loads.

It is transformers' own sequence classifier with one label (`Qwen3ForSequenceClassification` and its like), which takes the score
at a row's last token that is not padding: the reward token.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from athanor.rewards.polar.template import LONGEST, LONGEST_RESPONSE, REWARD, SPLIT, Template

LINE_BREAK = "\n"
TEMPLATE = "reward_template"  # key of config.json that says how the model was trained to be asked


@dataclass(frozen=True)
class Marked:
    """A tokenizer that has the two marks, and the template that they make."""

    tokenizer: Any
    template: Template
    padding: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without what the tokenizer would put around it."""
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]


def marked_tokenizer(folder: Path, longest: int, *, fine_tuned: bool) -> Marked:
    """The tokenizer of `folder`, with the marks added where it lacks them; `longest`: tokens of a sequence.

    Raises ValueError where there is no token to pad with.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{folder}: no token to pad with; name one in its tokenizer_config.json")
    tokenizer.add_special_tokens({"additional_special_tokens": [SPLIT, REWARD]})
    split, reward = (int(tokenizer.convert_tokens_to_ids(mark)) for mark in (SPLIT, REWARD))
    between = tuple(tokenizer.encode(LINE_BREAK, add_special_tokens=False)) if fine_tuned else ()
    template = Template(split, reward, between, min(longest, LONGEST), LONGEST_RESPONSE)
    return Marked(tokenizer, template, int(tokenizer.pad_token_id))


def saved_marks(folder: Path) -> Marked:
    """The tokenizer of a reward model's folder, with the template it was trained by. Raises ValueError where it names none."""
    template = getattr(AutoConfig.from_pretrained(folder), TEMPLATE, None)
    if template is None:
        raise ValueError(f"{folder} is no reward model: its config.json has no {TEMPLATE}; train one, or name its folder")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    known = Template(**{**template, "between": tuple(template["between"])})
    return Marked(tokenizer, known, int(tokenizer.pad_token_id))


def reward_model(backbone: Path, marked: Marked, seed: int) -> torch.nn.Module:
    """A decoder's folder with a head, in float32 on the CPU; a folder that has its head keeps it.

    New rows of the embedding and a new head are drawn from `seed`, the same in every process.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        model: Any = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
        if len(marked.tokenizer) > model.config.vocab_size:
            model.resize_token_embeddings(len(marked.tokenizer), mean_resizing=False)
    finally:
        torch.set_rng_state(state)
    model.config.pad_token_id = marked.padding
    model.config.use_cache = False
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # no random state is saved
    return model.train()  # type: ignore[no-any-return]


def write_reward_model(module: Any, weights: Mapping[str, torch.Tensor], folder: Path, marked: Marked) -> None:
    """Save `weights` (float32, by the module's names) as a folder that `load_reward_model` and transformers read."""
    marked.tokenizer.save_pretrained(folder)
    setattr(module.config, TEMPLATE, asdict(marked.template))
    module.save_pretrained(folder, state_dict=dict(weights))


def load_reward_model(folder: Path, device: torch.device) -> Any:
    """The model of a folder, ready to score: float32 on a CPU, its own type on a GPU. Raises ValueError where it has no head."""
    dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    model, found = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if found["missing_keys"]:
        raise ValueError(f"{folder} is no reward model: {', '.join(sorted(found['missing_keys'])[:5])} are not in it")
    return model.to(device).eval()
