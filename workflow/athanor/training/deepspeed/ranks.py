"""The ranks of a job that know data parallelism alone."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from athanor.training.world import claim_device, connect, nodes_of, place

LOCAL_RANK = "LOCAL_RANK"


@dataclass(frozen=True)
class Ranks:
    """This rank among all; each reads samples of its own."""

    rank: int
    data_ranks: int
    device: torch.device
    nodes: tuple[str, ...]

    @property
    def data_rank(self) -> int:
        """Which samples it reads."""
        return self.rank


@contextmanager
def connected(ranks: int, seed: int, patience: timedelta | None = None) -> Iterator[Ranks]:
    """Connect this rank with the others, seed all random generators, and take the connection down again. Raises StageError.

    `patience`: as `connect` takes it.
    """
    rank, world_size = place(ranks)
    device = claim_device()
    connect(rank, world_size, patience)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    launched = LOCAL_RANK in os.environ
    os.environ.setdefault(LOCAL_RANK, "0")  # DeepSpeed and accelerate ask for one, also where nothing but this process is there
    try:
        yield Ranks(rank, world_size, device, nodes_of(world_size))
    finally:
        dist.destroy_process_group()
        if not launched:  # whatever else this process does would take it for a launcher's
            del os.environ[LOCAL_RANK]
