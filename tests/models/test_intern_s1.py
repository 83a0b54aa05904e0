"""Intern-S1's recipe builds at its published size, in its own layout and in others: on the meta device, where nothing is
allocated, as ranks of a world that is not there."""

import random
from dataclasses import dataclass

import pytest
import torch

from athanor.models.language_model import build_language_model
from athanor.recipe.layouts import expert_tensor_ranks, illegal_batches, illegal_layout
from athanor.recipe.loading import read_recipe
from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.schema.training import Parallel
from tests.models.absent_world import as_rank

PUBLISHED_PARAMETERS = 235e9  # Qwen3-235B-A22B, the language model of Intern-S1
RECIPE: Recipe = read_recipe("intern-s1").recipe
SAMPLES = 12


def _sampled_layouts() -> list[Parallel]:
    """Legal layouts of 1,024 ranks, drawn evenly from all combinations of sizes."""
    draw, found = random.Random(0), list[Parallel]()
    while len(found) < SAMPLES:
        parallel = Parallel(
            ranks=1024,
            tensor=draw.choice([1, 2, 4]),
            pipeline=draw.choice([1, 2, 4, 8, 16]),
            virtual_pipeline=draw.choice([1, 2, 3, 6]),
            ends_count_as_layers=draw.random() < 0.5,
            context=draw.choice([1, 2, 4, 8]),
            expert=draw.choice([16, 32, 64, 128]),
            expert_tensor=draw.choice([1, 2]),
        )
        candidate = Recipe(
            model=RECIPE.model, pretrain=RECIPE.pretrain.__class__(**{**vars(RECIPE.pretrain), "parallel": parallel})
        )
        if (
            not [
                *illegal_layout(candidate.model, candidate.pretrain, "pretrain"),
                *illegal_batches(candidate.pretrain, "pretrain"),
            ]
            and parallel not in found
        ):
            found.append(parallel)
    return found


@dataclass
class Stage:
    """What a pipeline stage holds, over all its ranks."""

    layers: list[int]
    parameters: int


def _stage(rank: int, parallel: Parallel) -> Stage:
    stage = Stage([], 0)
    with as_rank(rank, parallel), torch.device("meta"):
        for chunk in build_language_model(RECIPE.model, parallel, Precision.BF16):
            stage.layers += [layer.layer_number for layer in chunk.module.decoder.layers]
            for name, weight in chunk.named_parameters():
                assert weight.device.type == "meta"
                cut = parallel.tensor
                if ".experts." in name:
                    cut = parallel.expert * expert_tensor_ranks(parallel)
                elif not getattr(weight, "tensor_model_parallel", False):
                    cut = 1
                stage.parameters += weight.numel() * cut
    return stage


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [RECIPE.pretrain.parallel, *_sampled_layouts()], ids=lambda p: "-".join(
    f"{name}{getattr(p, name)}" for name in ("tensor", "pipeline", "virtual_pipeline", "context", "expert", "expert_tensor")
))  # fmt: skip
def test_the_published_model_is_built_whole(parallel: Parallel) -> None:
    ranks_a_stage = parallel.ranks // parallel.pipeline
    stages = [_stage(number * ranks_a_stage, parallel) for number in range(parallel.pipeline)]
    assert sorted(layer for stage in stages for layer in stage.layers) == list(range(1, 95))
    assert sum(stage.parameters for stage in stages) == pytest.approx(PUBLISHED_PARAMETERS, rel=0.005)
