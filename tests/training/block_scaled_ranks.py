"""One rank of an emulated FP8 layer pair, cut over tensor ranks with the sequence shared, in float32."""

import os
from pathlib import Path

from athanor.recipe.schema.choices import Precision
from athanor.recipe.schema.training import Model, Parallel

SEQUENCE, BATCH, HIDDEN, INNER = 64, 3, 256, 512


def multiply(target: Path) -> int:
    """Forward and backward through a column- and a row-parallel layer; leaves this rank's parts in `target`-RANK.pt, each with
    the dimension along which the ranks' parts make the whole."""
    import torch

    from athanor.models.fp8_emulated import BlockScaling
    from athanor.models.language_model import transformer_config
    from athanor.models.linear_cpu import BlockScaledColumnParallelLinear, BlockScaledRowParallelLinear
    from athanor.training.layout import process_groups

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    parallel = Parallel(ranks=ranks, tensor=ranks)
    with process_groups(parallel, seed=3):
        config = transformer_config(Model(), parallel, Precision.FP32)
        settings = {"config": config, "init_method": config.init_method, "bias": False, "skip_bias_add": True}
        up = BlockScaledColumnParallelLinear(HIDDEN, INNER, gather_output=False, scaling=BlockScaling(), **settings)
        down = BlockScaledRowParallelLinear(INNER, HIDDEN, input_is_parallel=True, scaling=BlockScaling(), **settings)
        draw = torch.Generator().manual_seed(4)
        whole_up, whole_down = (torch.randn(*size, generator=draw) for size in ((INNER, HIDDEN), (HIDDEN, INNER)))
        x, dy = (torch.randn(SEQUENCE, BATCH, HIDDEN, generator=draw).chunk(ranks)[rank] for _ in range(2))
        up.weight.data, down.weight.data = whole_up.chunk(ranks)[rank], whole_down.chunk(ranks, dim=1)[rank].contiguous()
        x.requires_grad_()
        hidden, _ = up(x)
        output, _ = down(hidden)
        output.backward(dy)
        assert x.grad is not None
        parts = {"hidden": (hidden.detach(), 2), "output": (output.detach(), 0), "dx": (x.grad, 0)}
        weights = {"d_up": (up.weight.grad, 0), "d_down": (down.weight.grad, 1)}
        torch.save({**parts, **weights}, f"{target}-{rank}.pt")
    return 0
