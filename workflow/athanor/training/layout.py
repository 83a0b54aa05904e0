"""Which ranks compute what: process groups for the recipe's parallel layout, on gloo (CPU) or NCCL (GPU)."""

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from athanor.models.language_model import interleaved
from athanor.recipe.layouts import expert_tensor_ranks
from athanor.recipe.schema.training import Parallel
from athanor.training.world import claim_device, connect, nodes_of, place


@dataclass(frozen=True)
class Layout:
    """This rank's place. Ranks that differ only in tensor, pipeline or context rank read the same samples."""

    parallel: Parallel
    rank: int
    world_size: int
    data_rank: int
    data_ranks: int
    context_rank: int
    device: torch.device
    nodes: tuple[str, ...] = ()  # of each rank

    def recorded(self) -> dict[str, Any]:
        """What a checkpoint says about the layout that wrote it."""
        sizes = asdict(self.parallel)
        of_model = ("tensor", "pipeline", "virtual_pipeline", "context", "expert")
        cut = expert_tensor_ranks(self.parallel)
        return {"ranks": self.world_size, **{name: sizes[name] for name in of_model}, "expert_tensor": cut}

    @property
    def micro_batch_round(self) -> int:
        """What the number of a rank's micro-batches must divide by: the interleaved schedule takes a round of stages."""
        return self.parallel.pipeline if self.parallel.virtual_pipeline > 1 else 1


@contextmanager
def process_groups(parallel: Parallel, seed: int, patience: timedelta | None = None) -> Iterator[Layout]:
    """Connect this rank with the others, seed all random generators, and take the groups down again.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say who the others are; without them this process is alone. `patience`: as
    `connect` takes it. Raises StageError where the job has another number of ranks than the recipe.
    """
    rank, world_size = place(parallel.ranks)
    device = claim_device()
    gc.freeze()  # Megatron collects garbage at every save: not among what imports made, which took 0.4 s each time
    connect(rank, world_size, patience)
    try:
        form_groups(parallel)
        _seed(seed)
        yield Layout(
            parallel,
            rank,
            world_size,
            parallel_state.get_data_parallel_rank(),
            parallel_state.get_data_parallel_world_size(),
            parallel_state.get_context_parallel_rank(),
            device,
            nodes_of(world_size),
        )
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def form_groups(parallel: Parallel) -> None:
    """Tell Megatron which of the connected ranks compute what."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=interleaved(parallel),
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=expert_tensor_ranks(parallel),
        create_gloo_process_groups=False,
    )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
