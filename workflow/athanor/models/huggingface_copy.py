"""Turns a Hugging Face folder that was trained into one that is served: its type, its tokenizer, and proof that it loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, GenerationConfig

from athanor.models.huggingface import DTYPES, Exported, copy_tokenizer, special_tokens, teach_to_chat
from athanor.models.virtual_tokens import VirtualTokenError, add_virtual_tokens, virtual_ids
from athanor.models.weight_files import ExportError
from athanor.recipe.schema.recipe import Export
from athanor.recipe.virtual_tokens import name_of


def export_folder(
    source: Path, tokenizer: Path, folder: Path, settings: Export, progress: Callable[[int, int], None]
) -> Exported:
    """Write `source`, which was taught to chat, in the recipe's type with the tokenizer's files. Memory is the whole model's.

    Raises ExportError where transformers misses or ignores a weight of what was written.
    """
    progress(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(tokenizer, folder)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES[settings.dtype])
    teach_to_chat(folder, _virtual_tokens(source, folder, model.config.vocab_size))
    eos, pad = special_tokens(folder)
    model.config.eos_token_id, model.config.pad_token_id = eos, pad
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder, max_shard_size=settings.max_shard_bytes)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, device_map="meta", output_loading_info=True)
    wrong = [f"{kind}: {', '.join(map(str, sorted(found)[:5]))}" for kind, found in loaded[1].items() if found]
    if wrong:
        raise ExportError(f"{folder} does not load: {'; '.join(wrong)}; delete the folder and export again")
    progress(1, 1)
    files = tuple(sorted(path.name for path in folder.iterdir()))
    weight_bytes = sum((folder / name).stat().st_size for name in files if name.endswith(".safetensors"))
    return Exported(files, sum(weight.numel() for weight in model.parameters()), weight_bytes)


def _virtual_tokens(source: Path, folder: Path, rows: int) -> list[str]:
    """Give the folder's tokenizer those that `source` was tuned with, under the same ids; their names."""
    wanted = virtual_ids(source)
    try:
        found = add_virtual_tokens(folder, len(wanted), rows) if wanted else ()
    except VirtualTokenError as error:
        raise ExportError(str(error)) from error
    if found != wanted:
        raise ExportError(
            f"{source} has virtual tokens from id {wanted[0]} and the tokenizer of {folder} from {found[0]}: it is not the "
            "tokenizer that was trained with"
        )
    return [name_of(number) for number in range(len(wanted))]
