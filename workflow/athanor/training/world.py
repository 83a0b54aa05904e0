"""This process among the ranks of its job: who they are, its device, and the connection between them (gloo or NCCL)."""

import ctypes
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from athanor.artifacts.run import StageError, node_name

ON_CPU = not torch.cuda.is_available()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def place(ranks: int) -> tuple[int, int]:
    """This rank and their number, by RANK and WORLD_SIZE; without them this process is alone.

    Raises StageError where the job has another number of ranks than the recipe.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != ranks:
        raise StageError(
            f"the job has {world_size} ranks, the recipe {ranks} in `parallel.ranks`; "
            "start as many processes as the recipe says, or change it"
        )
    return rank, world_size


def claim_device() -> torch.device:
    """The GPU that LOCAL_RANK names, or the CPU with OMP_NUM_THREADS threads, which keeps freed memory."""
    if ON_CPU:
        _keep_freed_memory()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of giving them back: every step frees and takes the same ones, and fresh
    pages from the kernel cost a tenth of a step (measured: 0.06 s of system time a step fall to 0.04)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest it takes
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


# Of ranks that wait for each other's answers and rewards, and for a reward model to load; a hang is the executor's to end.
PATIENCE = timedelta(days=1)


def connect(rank: int, world_size: int, patience: timedelta | None = None) -> None:
    """The default process group; MASTER_ADDR and MASTER_PORT say where the others are found.

    `patience`: how long one rank may wait for another; None: torch's own, 10 or 30 minutes.
    """
    backend = "gloo" if ON_CPU else "nccl"
    if world_size == 1:
        dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
        return
    if ON_CPU and os.environ.get("MASTER_ADDR") in LOOPBACK:
        # Else gloo looks up this machine's name, which on laptops and in containers may resolve to nothing.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=patience)


def nodes_of(world_size: int) -> tuple[str, ...]:
    """The node of each rank."""
    names = [""] * world_size
    dist.all_gather_object(names, node_name())
    return tuple(names)
