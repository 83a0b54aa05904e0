"""Weights that training leaves as they are, named by patterns: the router, the embedding, attention."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
import torch.distributed as dist
from megatron.core.transformer.module import Float16Module

_NUMBER = re.compile(r"\.\d+|(?<=\.weight)\d+$")  # of a layer; of an expert, in a module's name or in a weight's


class FreezeError(Exception):
    """A pattern that names no weight of the model."""


def freeze(chunks: Sequence[torch.nn.Module], patterns: Sequence[str]) -> None:
    """Freeze every weight whose name matches one of `patterns`.

    Names are Megatron's without numbers, as in `decoder.layers.mlp.router.weight`: a kind of weight is frozen in all
    layers and experts or in none, since a checkpoint keeps it as one tensor. A pattern (`*` and `?` as in a shell) matches a
    whole name, or a run of its dotted parts. Called by all ranks together, before gradients have buffers. Raises
    FreezeError.
    """
    names = set()
    for name, weight in _weights_by_kind(chunks):
        names.add(name)
        if any(matches(name, pattern) for pattern in patterns):
            weight.requires_grad_(False)
    everyone: list[set[str]] = [set() for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, names)
    known = sorted(set().union(*everyone))
    if nothing := [pattern for pattern in patterns if not any(matches(name, pattern) for name in known)]:
        raise FreezeError(f"pretrain.freeze: no weight is called {' or '.join(nothing)}; there are {', '.join(known)}")
    if patterns and all(any(matches(name, pattern) for pattern in patterns) for name in known):
        raise FreezeError("pretrain.freeze: nothing is left to train")


def matches(name: str, pattern: str) -> bool:
    """Whether `pattern` is all of `name` or a run of its parts: `mlp.router` is in `decoder.layers.mlp.router.weight`."""
    return any(fnmatchcase(name, shape) for shape in (pattern, f"{pattern}.*", f"*.{pattern}", f"*.{pattern}.*"))


def _weights_by_kind(chunks: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for chunk in chunks:
        inner = chunk.module if isinstance(chunk, Float16Module) else chunk
        for name, weight in inner.named_parameters():
            yield _NUMBER.sub("", name), weight
