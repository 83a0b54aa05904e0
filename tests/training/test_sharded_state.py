"""What a checkpoint may lack: Transformer Engine's extra states, never a weight. The GPU's own tests are test_on_gpu.py."""

from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject

from athanor.artifacts.run import StageError
from athanor.training.sharded_state import _take_weights, _without_unknown_extra_states


class WithScales(torch.nn.Linear):
    """A layer like Transformer Engine's: an extra state beside its weight."""

    scales = 1.0

    def get_extra_state(self) -> float:
        return self.scales

    def set_extra_state(self, state: float) -> None:
        self.scales = state


def test_extra_state_that_the_checkpoint_lacks_is_not_asked_for(fresh: Path) -> None:
    extra = ShardedObject("decoder.layers.self_attention.q_layernorm._extra_state", None, (2,), (0,))
    state = {"model": {"a.weight": torch.ones(1), "a._extra_state": extra}, "optimizer": {}}
    found = _without_unknown_extra_states(state, fresh)
    assert list(found) == ["model", "optimizer"]
    assert list(found["model"]) == ["a.weight"]


def test_absent_extra_state_starts_afresh_and_a_present_one_is_taken(tmp_path: Path) -> None:
    layer, other = WithScales(2, 2), WithScales(2, 2)
    other.scales = 7.0
    saved = other.state_dict()
    without = {name: value for name, value in saved.items() if "_extra_state" not in name}
    _take_weights([layer], {"model": without}, tmp_path)
    assert torch.equal(layer.weight, other.weight) and layer.scales == 1.0
    _take_weights([layer], {"model": saved}, tmp_path)
    assert layer.scales == 7.0


@pytest.mark.parametrize("change", [{"weight": None}, {"stranger": torch.ones(1)}])
def test_missing_weight_and_unknown_weight_are_refused(change: dict[str, torch.Tensor | None], tmp_path: Path) -> None:
    saved = {name: value for name, value in {**WithScales(2, 2).state_dict(), **change}.items() if value is not None}
    with pytest.raises(StageError, match=f"holds other weights than the recipe's model: {next(iter(change))}; make it again"):
        _take_weights([WithScales(2, 2)], {"model": saved}, tmp_path)
