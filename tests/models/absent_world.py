"""One rank of a world whose other ranks are not there: enough to build what the rank would hold."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from athanor.recipe.schema.training import Parallel
from athanor.training.layout import form_groups


@contextmanager
def as_rank(rank: int, parallel: Parallel) -> Iterator[None]:
    """This process as one of many ranks, none of which is there: collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=parallel.ranks)
    try:
        form_groups(parallel)
        tensor_parallel.model_parallel_cuda_manual_seed(1, force_reset_rng=True)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
