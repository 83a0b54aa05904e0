"""`athanor convert`: its options, and what it says. The work is in `athanor.training.conversion`."""

import argparse
import sys
from enum import StrEnum
from pathlib import Path

DESCRIPTION = """\
Convert a Hugging Face folder into a Megatron checkpoint, or such a checkpoint back.

Qwen3, Qwen3-MoE, Glm4Moe, and the language model inside an Intern-S1 folder convert. Weights are read, converted and written one
tensor at a time: memory is a few times the largest tensor, whatever the size of the folder. Before a byte is written, all
shapes are checked against config.json, and all problems come in one report. A call that was killed goes on where it was
when it is given again.
"""
EXAMPLES = """\
examples:
  athanor convert models/Qwen3-8B imported
      writes imported/checkpoint (Megatron, loads into any layout) and imported/huggingface (config, tokenizer, and the
      tensors that have no place here, such as a vision tower)
  athanor convert imported back
      puts everything back: the same bytes as models/Qwen3-8B
  athanor convert models/Qwen3-8B larger --vocab-size 160000
      more rows of vocabulary; the new ones are the mean of the old ones
  athanor convert models/Qwen3-8B upcycled --experts 8 --experts-per-token 2
      every expert is a copy of its dense layer: the model computes what it did
  athanor convert $(athanor where pretrain/480K) trained --like models/Qwen3-8B
      a trained milestone as a folder like the one it came from

To train from a folder no conversion is needed: set pretrain.init_from in the recipe.
"""


class Direction(StrEnum):
    """What is made."""

    MEGATRON = "megatron"
    HUGGINGFACE = "huggingface"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    convert = commands.add_parser(
        "convert",
        help="convert a Hugging Face folder into a Megatron checkpoint, or back",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("folder", type=Path, metavar="FOLDER", help="a Hugging Face folder, an import, or a stage's folder")
    convert.add_argument("out", type=Path, metavar="OUT", help="a new folder, or that of the same call before it was killed")
    convert.add_argument(
        "--to", choices=list(Direction), type=Direction, help="what is made; by default the other form than FOLDER has"
    )
    convert.add_argument("--vocab-size", type=int, default=0, metavar="N", help="rows of the vocabulary (to megatron)")
    convert.add_argument("--experts", type=int, default=0, metavar="N", help="copies of each dense layer (to megatron)")
    convert.add_argument(
        "--experts-per-token", type=int, default=0, metavar="K", help="of the copies that are chosen (default 2)"
    )
    convert.add_argument("--seed", type=int, default=0, metavar="N", help="of the routers of such copies (default 0)")
    convert.add_argument("--dtype", choices=["fp32", "bf16"], help="of the weights; as they are in FOLDER, or in --like")
    convert.add_argument("--like", type=Path, metavar="FOLDER", help="the folder a trained checkpoint came from (to huggingface)")
    convert.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Convert. Returns the exit code: 1 for problems, which were printed."""
    from athanor.training.conversion import ConvertError, Wishes, to_huggingface, to_megatron

    wishes = Wishes(
        vocab_size=arguments.vocab_size,
        experts=arguments.experts,
        experts_per_token=arguments.experts_per_token,
        seed=arguments.seed,
        dtype=arguments.dtype,
        like=arguments.like,
    )
    direction = arguments.to or (Direction.MEGATRON if (arguments.folder / "config.json").is_file() else Direction.HUGGINGFACE)
    convert = to_megatron if direction is Direction.MEGATRON else to_huggingface
    try:
        print(convert(arguments.folder, arguments.out, wishes))
    except ConvertError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
