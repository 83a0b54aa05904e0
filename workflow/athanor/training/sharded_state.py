"""What a checkpoint holds, in Megatron's sharded form: weights, optimizer, random states; saved and loaded by all ranks.

`fully_reshardable`: a checkpoint loads into any parallel layout.
"""

import copy
import os
import pickle
import queue
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy, load_sharded_metadata
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.transformer.module import Float16Module

from athanor.artifacts.run import StageError
from athanor.models.language_model import ON_CPU
from athanor.models.torch_dist import CONTENT
from athanor.training.optimizer import Learner

EXTRA_STATE = "_extra_state"


def save_weights(modules: Sequence[Any], folder: Path) -> None:
    """Write the weights of a model's chunks alone into the empty `folder`."""
    snapshot = Snapshot(_weights_state(modules), folder, copy=False)
    snapshot.write(folder)
    dist.barrier()
    snapshot.complete()


def snapshot_learner(learner: Learner, folder: Path, *, copy: bool) -> "Snapshot":
    """Weights, optimizer and random states, on their way into the empty `folder`. With `copy` the learner may change before
    they are written."""
    learner.have_moments()
    return Snapshot(_learner_state(learner, is_loading=False, with_random_states=True), folder, copy=copy)


class Snapshot:
    """A sharded state in host memory, to be written by `write` on every rank and then made whole by `complete`.

    Megatron would write in a forked process, whose results need a queue in a third one: a manager that costs seconds at the
    first save, imports the main file anew, and can outlive a kill. A thread needs neither.
    """

    def __init__(self, state: dict[str, Any], folder: Path, *, copy: bool) -> None:
        """On all ranks together; plans who writes what."""
        self.folder = folder
        self._results: queue.Queue[Any] = queue.Queue()
        filesystem_async._results_queue = self._results
        strategy = FullyParallelSaveStrategyWrapper(
            TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),
            parallel_state.get_data_parallel_group(with_context_parallel=True),
        )
        request = dist_checkpointing.save(state, str(folder), strategy, async_sharded_save=True, content_metadata=dict(CONTENT))
        assert request is not None
        self._finalize = request.finalize_fns
        # [(path, name, (bytes, tensors))], one for a thread: with one thread, one file a rank, or none.
        buckets = request.preload_fn() if request.preload_fn else []
        self._files = [
            (name, (data, [(item, _owned(tensor) if copy else tensor) for item, tensor in tensors]))
            for _, name, (data, tensors) in buckets
        ]
        self._transforms = request.async_fn.args[0] if request.async_fn else []

    def write(self, folder: Path) -> list[str]:
        """Write this rank's files into `folder`, which need not be the one they end in, and bring them to the disk. May be
        called by another thread. Returns their names; raises OSError."""
        written = {}
        for number, (name, content) in enumerate(self._files):
            results: queue.Queue[Any] = queue.Queue()
            counted: queue.Queue[Any] = queue.Queue()
            counted.put(number)
            bucket = (str(folder / name), name, content)
            FileSystemWriterAsync.write_preloaded_data(self._transforms, number, bucket, results, counted, use_fsync=True)
            _, written[number] = results.get()
            if isinstance(written[number], Exception):
                raise written[number]
        if self._files:
            self._results.put(written)
        return [name for name, _ in self._files]

    def complete(self) -> None:
        """Write the index, once all files of all ranks are in the folder; on all ranks together."""
        for finalize in self._finalize:
            finalize()
        if dist.get_rank() == 0:
            _forget_where_and_when(self.folder / ".metadata")
        dist.barrier()


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that nobody else writes to; what came from a GPU is a copy already."""
    return tensor.clone() if ON_CPU else tensor


def load_weights(learner: Learner, folder: Path) -> None:
    """Take the weights; the optimizer starts afresh from them."""
    modules = [chunk.module for chunk in learner.chunks]
    _take_weights(modules, _load(_weights_state(modules), folder), folder)
    learner.forget()
    learner.optimizer.reload_model_params()


def load_learner(learner: Learner, folder: Path, *, same_layout: bool) -> None:
    """Take weights and optimizer, and the random states where the layout that wrote them is the same."""
    loaded = _load(_learner_state(learner, is_loading=True, with_random_states=same_layout), folder)
    _take_weights([chunk.module for chunk in learner.chunks], loaded, folder)
    learner.optimizer.load_state_dict(_match_expert_layout(loaded["optimizer"], learner.optimizer))
    if same_layout:
        _set_random_states(loaded["random_states"][0])


def _metadata() -> dict[str, Any]:
    return {**CONTENT, "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}


def _weights_state(modules: Sequence[Any]) -> dict[str, Any]:
    return {name: module.sharded_state_dict(metadata=_metadata()) for name, module in _by_name(modules).items()}


def _by_name(modules: Sequence[Any]) -> dict[str, Any]:
    """The chunks of a model under the names that Megatron-LM gives them; on disk no tensor's name depends on chunks."""
    return {"model": modules[0]} if len(modules) == 1 else {f"model{number}": m for number, m in enumerate(modules)}


def _learner_state(learner: Learner, *, is_loading: bool, with_random_states: bool) -> dict[str, Any]:
    state = _weights_state([chunk.module for chunk in learner.chunks])
    # Megatron takes the weights' state as it names it: whole for one chunk's model, by chunk for several.
    weights = state["model"] if len(learner.chunks) == 1 else dict(state)
    state["optimizer"] = learner.optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=_metadata())
    if with_random_states:
        state["random_states"] = _random_states()
    return state


def _random_states() -> ShardedObject:
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "parallel": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    ranks = (
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    place = (parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_tensor_model_parallel_rank())
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    return ShardedObject("random_states", [states], ranks, place, replica_id=replica)


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["parallel"])


def _forget_where_and_when(path: Path) -> None:
    """torch's index names the folder it was saved to and a random id: take them out, so that equal states are equal bytes."""
    index = pickle.loads(path.read_bytes())
    index.storage_meta = None
    temporary = path.with_name(".metadata.tmp")
    with temporary.open("wb") as file:
        pickle.dump(index, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _take_weights(modules: Sequence[Any], loaded: dict[str, Any], folder: Path) -> None:
    for name, module in _by_name(modules).items():
        inner = module.module if isinstance(module, Float16Module) else module  # the wrapper's own call returns nothing
        missing, unexpected = inner.load_state_dict(loaded[name], strict=False)
        wrong = [key for key in missing if EXTRA_STATE not in key] + list(unexpected)
        if wrong:
            raise StageError(f"{folder} holds other weights than the recipe's model: {', '.join(wrong[:5])}; make it again")


def _without_unknown_extra_states(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Transformer Engine keeps the history of FP8 scales as an object beside each weight. What a CPU or another
    precision has written lacks them: they start afresh, as in a first step."""
    known: Mapping[str, Any] = {}
    for chunk in [name for name in state if name.startswith("model")]:
        extra = {name: o.unique_key for name, o in state[chunk].items() if EXTRA_STATE in name and isinstance(o, ShardedObject)}
        if extra:
            known = known or load_sharded_metadata(str(folder))
            absent = {name for name, key in extra.items() if key not in known}
            state = {**state, chunk: {name: value for name, value in state[chunk].items() if name not in absent}}
    return state


def _load(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    state = _without_unknown_extra_states(state, folder)
    strategy = FullyParallelLoadStrategyWrapper(
        get_default_load_sharded_strategy(str(folder)),
        parallel_state.get_data_parallel_group(with_context_parallel=True),
    )
    loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder), strategy)
    return loaded


def _match_expert_layout(saved: dict[Any, Any], optimizer: Any) -> dict[Any, Any]:
    """Re-nest parameter groups saved under the other kind of expert layout.

    With expert = 1 Megatron builds one optimizer, with expert > 1 a chain of two (dense, expert). dist_checkpointing
    reshards the tensors, but not that nesting.
    """
    chain = [key for key in saved if isinstance(key, int)]
    common = {key: value for key, value in saved.items() if not isinstance(key, int)}
    members = len(optimizer.chained_optimizers)
    if members == 1 and chain:
        groups = [group for key in chain for group in saved[key]["optimizer"]["param_groups"]]
        one = {**saved[chain[0]], **common}
        one["optimizer"] = {**one["optimizer"], "param_groups": groups}
        return _in_both_kinds(one)
    if members > 1 and "optimizer" in common:
        return {key: _in_both_kinds({**copy.deepcopy(common), **saved[key]}) for key in chain}
    return saved


def _in_both_kinds(state: dict[Any, Any]) -> dict[Any, Any]:
    """Every parameter group once as dense and once as expert: the optimizer takes those it has."""
    groups = state["optimizer"]["param_groups"]
    both = [{**group, "is_expert_parallel": expert} for group in groups for expert in (False, True)]
    return {**state, "optimizer": {**state["optimizer"], "param_groups": both}}
