"""Lets unmodified Megatron-Core 0.16.1 run on a machine without CUDA: CPU tensors, gloo.

Megatron-Core has no CPU mode. It allocates on `torch.cuda.current_device()` or the literal "cuda", compares names of
tensor types with `torch.cuda.FloatTensor`, and keeps its parallel random states in the CUDA generator. `install`
redirects exactly those calls; each piece below is named after the obstacle it removes. Where CUDA exists it does
nothing, so a GPU run never meets it. Call it before the first `import megatron.core`: some decorators act on import.
"""

import contextlib
import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

CPU = torch.device("cpu")
TORCH: Any = torch  # untyped: what is put in place of CUDA's classes and functions only looks like them
CUDA: Any = torch.cuda
TENSOR: Any = torch.Tensor
_installed = False


def install() -> bool:
    """Redirect Megatron's CUDA calls to the CPU, once. Returns whether this process trains on the CPU."""
    global _installed
    if torch.cuda.is_available():
        return False
    if not _installed:
        _installed = True
        # A dozen lines at every start, about what this machine cannot have.
        warnings.filterwarnings("ignore", message=".*Apex .*not installed|full scope is deprecated")
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed|megatron.core")
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        for piece in PIECES:
            piece()
    return True


def _no_torch_compile() -> None:
    """megatron/core/jit.py compiles about 40 small functions: for no speed on a CPU, it needs a C++ compiler and imports
    torch._dynamo (1.4 s of a start). Its decorator becomes the identity."""

    def leave(function: Any = None, **_options: Any) -> Any:
        return leave if function is None else function

    TORCH.compile = leave
    # torch keeps its compiler away from the methods of optimizers, and imports it for that when one is first called.
    for method in vars(torch.optim.Optimizer).values():
        if plain := getattr(method, "__wrapped__", None):
            setattr(plain, "__dynamo_disable", plain)


def _current_device_is_cpu() -> None:
    """`device=torch.cuda.current_device()`, in about 60 places."""
    CUDA.current_device = lambda: CPU
    CUDA.set_device = lambda device: None
    CUDA.device_count = lambda: 1


def _cuda_copies_are_noops() -> None:
    """`tensor.cuda()` and `module.cuda()`."""
    TENSOR.cuda = lambda self, *_, **__: self
    TORCH.nn.Module.cuda = lambda self, *_, **__: self


FACTORIES = ("empty", "zeros", "ones", "full", "tensor", "arange", "rand", "randn", "randint",
             "empty_like", "zeros_like", "ones_like", "as_tensor")  # fmt: skip


def _cuda_literals_mean_cpu() -> None:
    """`torch.zeros(…, device="cuda")` in schedules, gradient clipping, optimizer and masks."""

    def on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(factory)
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            kwargs.pop("pin_memory", None)
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                kwargs["device"] = CPU
            return factory(*args, **kwargs)

        return call

    # torch caches its table of factories. Filled after this patch it would hold the wrappers, `with
    # torch.device("meta")` would stop working, and transformers would silently leave rotary frequencies unset.
    from torch.utils._device import _device_constructors

    _device_constructors()
    for name in FACTORIES:
        setattr(torch, name, on_cpu(getattr(torch, name)))


class _Event:
    """What is left of a CUDA event where all operations are in program order."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.seconds = 0.0

    def record(self, stream: Any = None) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, end: "_Event") -> float:
        return (end.seconds - self.seconds) * 1e3  # milliseconds, as CUDA's

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class _Stream:
    """The one stream of a CPU."""

    device = CPU

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, other: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def query(self) -> bool:
        return True


def _streams_are_noops() -> None:
    """Synchronisation and side streams of dispatchers and DDP."""
    main = _Stream()
    CUDA.Stream, CUDA.Event = _Stream, _Event
    CUDA.current_stream = CUDA.default_stream = lambda device=None: main
    CUDA.stream = lambda stream: contextlib.nullcontext()
    CUDA.synchronize = lambda device=None: None
    TENSOR.record_stream = lambda self, stream: None


def _optimizer_accepts_cpu_tensors() -> None:
    """The optimizer tests `param.type() == 'torch.cuda.FloatTensor'`: to that package alone, spell CPU types so."""
    plain_type = torch.Tensor.type

    def type_(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
        if dtype is not None:
            return plain_type(self, dtype, non_blocking, **kwargs)
        name = plain_type(self)
        if sys._getframe(1).f_globals.get("__name__", "").startswith("megatron.core.optimizer"):
            name = name.replace("torch.", "torch.cuda.", 1)
        return name

    TENSOR.type = type_


def _random_states_on_cpu() -> None:
    """The tracker of parallel random states keeps its streams in the CUDA generator: keep them in the CPU's."""
    from megatron.core.tensor_parallel import random as parallel_random

    class CpuStatesTracker(parallel_random.CudaRNGStatesTracker):
        def add(self, name: str, seed: int) -> None:
            if seed in self.seeds_ or name in self.states_:
                raise ValueError(f"random state {name!r} (seed {seed}) exists already")
            self._is_initialized = True
            self.seeds_.add(seed)
            self.states_[name] = torch.Generator().manual_seed(seed).get_state()

        @contextlib.contextmanager
        def fork(self, name: str = "model-parallel-rng") -> Iterator[None]:
            outer = torch.get_rng_state()
            torch.set_rng_state(self.states_[name])
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(outer)

    parallel_random._CUDA_RNG_STATE_TRACKER = CpuStatesTracker()
    parallel_random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    parallel_random.CudaRNGStatesTracker = CpuStatesTracker
    # Recomputation of activations saves and restores "the CUDA generator": there is only one.
    parallel_random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    parallel_random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    CUDA.get_rng_state = lambda *_, **__: torch.get_rng_state()
    CUDA.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    CUDA.manual_seed = torch.manual_seed


def _router_gemm_without_te() -> None:
    """moe_utils.py:1192 reads a name that its failed import (line 34) left undefined."""
    from megatron.core.transformer.moe import moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def _all_to_all_split_sizes() -> None:
    """Split sizes become numpy only for CUDA tensors (moe_utils.py:1095), but all_to_all_single takes no tensors."""
    from megatron.core.transformer.moe import token_dispatcher

    def to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = to_host


def _uneven_gathers() -> None:
    """Experts cut over tensor ranks get unequal numbers of tokens from them, and gloo gathers and scatters equal parts only."""
    from megatron.core.tensor_parallel import mappings

    even_gather, even_reduce = mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim

    def gather(part: Any, group: Any, sizes: list[int] | None = None, use_global_buffer: bool = False) -> Any:
        if sizes is None or group.size() == 1:
            return even_gather(part, group, sizes, use_global_buffer)
        whole = part.new_empty(sum(sizes), *part.shape[1:])
        for rank, place in enumerate(whole.split(sizes)):
            if rank == group.rank():
                place.copy_(part)
            TORCH.distributed.broadcast(place, group=group, group_src=rank)
        return whole

    def reduce_scatter(whole: Any, group: Any, sizes: list[int] | None = None, use_global_buffer: bool = False) -> Any:
        if sizes is None or group.size() == 1:
            return even_reduce(whole, group, sizes, use_global_buffer)
        total = whole.clone(memory_format=torch.contiguous_format)
        TORCH.distributed.all_reduce(total, group=group)
        return total.split(sizes)[group.rank()].contiguous()

    mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim = gather, reduce_scatter


def _one_step_count_per_group() -> None:
    """Give the distributed optimizer what Transformer Engine gives it on a GPU: an Adam with one `step` per group.

    torch's AdamW counts per parameter, which breaks loading a checkpoint (distrib_optimizer.py:642, 940).
    """
    import megatron.core.optimizer as megatron_optimizer
    from megatron.core.optimizer import distrib_optimizer

    from athanor.models.adam_cpu import GroupStepAdam

    megatron_optimizer.Adam, megatron_optimizer.USING_PYTORCH_OPTIMIZER = GroupStepAdam, False
    distrib_optimizer.Adam = GroupStepAdam
    distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_APEX_OPTIMIZER = True


def _gradient_norms_without_te() -> None:
    """Where Transformer Engine is installed but no GPU is there, its kernels for norm and scale of gradients are taken."""
    from megatron.core import utils
    from megatron.core.optimizer import clip_grads, optimizer

    clip_grads.l2_norm_impl = utils.local_multi_tensor_l2_norm
    for module in (clip_grads, optimizer):
        module.multi_tensor_applier = utils.local_multi_tensor_applier
        module.multi_tensor_scale_impl = utils.local_multi_tensor_scale


def _sequence_parallel_norm() -> None:
    """WrappedTorchNorm refuses sequence parallelism only because nothing marks its weight for the extra reduction."""
    from megatron.core.transformer import torch_norm

    from athanor.models.norm_cpu import TorchRMSNorm

    def build(cls: type, config: Any, hidden_size: int, eps: float = 1e-5, *_: Any, **__: Any) -> torch.nn.Module:
        kinds = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": TorchRMSNorm}
        norm: torch.nn.Module = kinds[config.normalization](normalized_shape=hidden_size, eps=eps)
        for weight in norm.parameters():
            weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm

    torch_norm.WrappedTorchNorm.__new__ = build


def _fewer_passes_and_messages() -> None:
    """Megatron's vocabulary-parallel loss makes eight passes over the logits, its rotary positions ten over the heads; data ranks
    on gloo send twice what is needed."""
    from megatron.core import tensor_parallel
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.models.common.embeddings import rope_utils

    from athanor.models import collectives_cpu, loss_cpu, rotary_cpu

    tensor_parallel.vocab_parallel_cross_entropy = loss_cpu.in_place_unless_cut(tensor_parallel.vocab_parallel_cross_entropy)
    rope_utils._apply_rotary_pos_emb_bshd = rotary_cpu.rotary(rope_utils._apply_rotary_pos_emb_bshd)
    param_and_grad_buffer.dist_reduce_scatter_func = collectives_cpu.reduce_scatter
    param_and_grad_buffer.dist_all_gather_func = collectives_cpu.all_gather


PIECES: tuple[Callable[[], None], ...] = (
    _no_torch_compile, _current_device_is_cpu, _cuda_copies_are_noops, _cuda_literals_mean_cpu, _streams_are_noops,
    _optimizer_accepts_cpu_tensors, _random_states_on_cpu, _router_gemm_without_te, _all_to_all_split_sizes,
    _uneven_gathers, _one_step_count_per_group, _gradient_norms_without_te, _sequence_parallel_norm,
    _fewer_passes_and_messages,
)  # fmt: skip
