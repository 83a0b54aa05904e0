"""Models in their Hugging Face form, from a folder and into one."""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from athanor.artifacts.run import StageError
from athanor.models.folder_files import OPTIONAL_TOKENIZER_FILES, TOKENIZER_FILES
from athanor.training.rounds import Weights


def read_model(folder: Path) -> PreTrainedModel:
    """The model of a folder in float32 on the CPU. Tokens attend by torch's own kernel, which takes a mask of documents."""
    disable_progress_bar()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return model


def write_model(start: Path, weights: Weights, folder: Path) -> None:
    """The folder `start` with other weights, in float32, and its tokenizer."""
    config = AutoConfig.from_pretrained(start, dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(config)
    if odd := {name for name, _ in model.named_parameters()} ^ weights.keys():
        raise StageError(
            f"{start} and the trained weights differ in {', '.join(sorted(odd)[:5])}: train from the folder as it is"
        )
    model.load_state_dict(dict(weights), strict=False)  # a tied output layer has no weights of its own
    model.tie_weights()
    model.save_pretrained(folder)
    copy_tokenizer(start, folder)


def copy_tokenizer(start: Path, folder: Path) -> None:
    """Its files, where `start` has any."""
    for name in (*TOKENIZER_FILES, *OPTIONAL_TOKENIZER_FILES):
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / name)
