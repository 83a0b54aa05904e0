"""Three ranks bring gradients together and spread weights as torch does, from views of the buffer itself."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from athanor.models.language_model import ON_CPU
from tests import ranks

RANKS, A_SHARD = 3, 1000


@pytest.mark.skipif(not ON_CPU, reason="stands in only where there is no GPU: pytest on such a machine runs this")
@pytest.mark.parametrize("members", [RANKS, 2, 1])
def test_reduce_scatter_and_all_gather_are_torchs(members: int, tmp_path: Path) -> None:
    """In a group of all ranks, of two that do not begin with rank 0, and of one."""
    logs = [tmp_path / f"rank-{rank}" for rank in range(RANKS)]
    assert ranks.wait(ranks.start(_compare, members, logs=logs)) == [0] * RANKS, logs[-1].read_text()


def _compare(members: int) -> int:
    from athanor.models import collectives_cpu

    dist.init_process_group("gloo")
    numbers = list(range(RANKS - members, RANKS))
    group, rank = dist.new_group(numbers), dist.get_rank()
    if rank in numbers:
        gradients = torch.randn(members * A_SHARD, generator=torch.Generator().manual_seed(rank))
        expected, mine = torch.empty(A_SHARD), gradients.chunk(members)[numbers.index(rank)]
        dist.reduce_scatter_tensor(expected, gradients.clone(), group=group)
        collectives_cpu.reduce_scatter(mine, gradients, dist.ReduceOp.SUM, group)
        torch.testing.assert_close(mine, expected)
        weights = torch.empty(members * A_SHARD)
        dist.all_gather_into_tensor(weights, mine.clone(), group=group)
        collectives_cpu.all_gather(gradients, mine, group)
        assert torch.equal(gradients, weights)
    dist.destroy_process_group()
    return 0
