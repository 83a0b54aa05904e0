"""Where an unexpected loss or gradient comes from: computed again in place, then on other ranks, before a weight is touched.

Megatron's rerun state machine asks the same questions, but the second one only by a restart from a checkpoint on another
machine, which it tells by the host's name. Here data ranks swap their micro-batches within the step: what stays with the
samples is the data's, what stays with the rank is its machine's.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from athanor.training.batches import MicroBatch
from athanor.training.errors import BadDataError, HardwareError, NonFiniteError, UnexplainedError
from athanor.training.objective import Objective
from athanor.training.optimizer import Learner
from athanor.training.step import Own, StepResult, run_micro_batches

FAULTS = "faults.jsonl"
AGREES = 0.05  # relative: elsewhere rounding may send a token to another expert; what is looked for is larger
TRANSIENTS_LET_PASS = 1  # of one node in one artifact


class Origin(StrEnum):
    """What an unexpected result follows."""

    TRANSIENT = "transient"  # nothing: computed again it is as usual
    RANK = "rank"  # the rank, whatever samples it computes
    DATA = "data"  # the samples, whatever rank computes them
    STATE = "state"  # neither: all samples, everywhere
    UNKNOWN = "unknown"  # the same in place, and no other rank to ask


@dataclass(frozen=True)
class Fault:
    """One line of `faults.jsonl`. `ranks` are those under suspicion, `nodes` theirs; `module` is where the first of them
    made no number out of numbers."""

    step: int
    what: str
    origin: Origin
    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    module: str = ""

    def __str__(self) -> str:
        where = ", ".join(f"rank {rank} on {node}" for rank, node in zip(self.ranks, self.nodes, strict=True))
        return f"{self.what} at step {self.step}: {self.origin.value}{f', {where}' if where else ''}{self.at}"

    @property
    def at(self) -> str:
        """The module in words."""
        return f", first in {self.module}" if self.module else ""


@dataclass(frozen=True)
class _Seen:
    """What one rank knows of a run."""

    own: Own
    data_rank: int
    module: str = ""
    weights_finite: bool = True


class Diagnosis:
    """Explains unexpected steps of one artifact, and remembers them over attempts. All methods are called by all ranks."""

    def __init__(self, learner: Learner, objective: Objective, record: Path) -> None:
        self._learner, self._objective, self._record = learner, objective, record
        self._known = read_faults(record)

    def transient(self, step: int, first: StepResult, again: StepResult) -> Fault:
        """The step came out as usual when it was computed again. Raises HardwareError for a node that had its share."""
        before, after = self._gather(first.own), self._gather(again.own)
        ranks = [rank for rank, (a, b) in enumerate(zip(before, after, strict=True)) if not a.own.agrees(b.own, AGREES)]
        fault = self._note(step, first.unexpected, Origin.TRANSIENT, ranks, before)
        if len(nodes := set(fault.nodes)) == 1:  # of several, some only heard from the one that erred
            earlier = [f.step for f in self._known[:-1] if f.origin is Origin.TRANSIENT and set(f.nodes) == nodes]
            if len(earlier) >= TRANSIENTS_LET_PASS:
                steps, node = ", ".join(map(str, earlier)), fault.nodes[0]
                raise _on(node, f"{fault} was gone when computed again, as at step {steps}: {node} is not to be trusted")
        return fault

    def locate(
        self, step: int, again: StepResult, here: Sequence[MicroBatch], read: Callable[[int], Sequence[MicroBatch]]
    ) -> Fault:
        """The step came out the same again: on other ranks, too? `read(1)` gives the next data rank's micro-batches.

        Gradients are zero afterwards. Raises HardwareError where the result follows a rank.
        """
        ranks = self._learner.layout.data_ranks
        own = self._measure(here)
        if ranks == 1:
            return self._note(step, again.unexpected, Origin.UNKNOWN, range(len(own)), own)
        moved = self._measure(read(1))
        origin, groups = attribute(_by_data_rank(own, ranks), _by_data_rank(moved, ranks))
        suspects = [rank for rank, seen in enumerate(own) if seen.data_rank in groups]
        broken = [rank for rank, seen in enumerate(own) if seen.module and seen.weights_finite]
        if origin is not Origin.DATA and 0 < len(broken) < len(own):
            origin, suspects = Origin.RANK, broken  # what one rank spoils, all that hear from it have
        fault = self._note(step, again.unexpected, origin, suspects, own)
        if origin is Origin.RANK:
            raise _on(fault.nodes[0], f"{fault}, with other ranks' samples, too, and not where those computed its own")
        return fault

    def refuse(self, fault: Fault, samples: range) -> None:
        """Raise what a result that is no number means for the stage."""
        if fault.origin is Origin.DATA:
            raise BadDataError(
                f"{fault}: samples {samples.start} to {samples.stop - 1} give it wherever they are computed; look at them, or "
                "have them left out with pretrain.spikes.action=skip"
            )
        before = [f for f in self._known[:-1] if f.step == fault.step and f.origin is Origin.UNKNOWN]
        if fault.origin is Origin.UNKNOWN and not before:
            raise UnexplainedError(f"{fault}, twice in place; there is no other rank to compare with, another node may tell")
        raise NonFiniteError(
            f"{fault}. No checkpoint holds it: the next start continues before it. If it comes back at the same step, lower "
            "pretrain.lr or pretrain.optimizer.clip_grad"
        )

    def _measure(self, batches: Sequence[MicroBatch]) -> list[_Seen]:
        """What every rank makes of `batches` by itself: nothing is summed over ranks."""
        learner = self._learner
        with _born(learner.chunks) as born, learner.unreduced():
            learner.zero_gradients()
            sums = run_micro_batches(learner, batches, self._objective, forward_only=False)
            own = Own(sums.loss, learner.own_gradient())
            learner.zero_gradients()
        return self._gather(own, *(born[0] if born else ()))

    def _gather(self, own: Own, module: str = "", weights_finite: bool = True) -> list[_Seen]:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, _Seen(own, self._learner.layout.data_rank, module, weights_finite))
        return everyone

    def _note(self, step: int, what: str, origin: Origin, ranks: Sequence[int], seen: Sequence[_Seen]) -> Fault:
        module = next((seen[rank].module for rank in ranks if seen[rank].module), "")
        nodes = tuple(self._learner.layout.nodes[rank] for rank in ranks)
        fault = Fault(step, what, origin, tuple(ranks), nodes, module)
        self._known.append(fault)
        if dist.get_rank() == 0:
            print(f"unexpected: {fault}", flush=True)
            with self._record.open("a") as file:
                file.write(json.dumps(asdict(fault), allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return fault


def read_faults(path: Path) -> list[Fault]:
    """All whole lines, or none."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [Fault(**{**d, "origin": Origin(d["origin"]), "ranks": tuple(d["ranks"]), "nodes": tuple(d["nodes"])}) for d in lines]


def attribute(own: Sequence[Own], moved: Sequence[Own]) -> tuple[Origin, tuple[int, ...]]:
    """What a result that was unexpected twice follows, and the data ranks under suspicion.

    `own[d]` is what data rank d made of its own micro-batches, `moved[d]` what it made of those of data rank d + 1.
    """
    ranks = len(own)
    apart = [rank for rank in range(ranks) if not own[rank].agrees(moved[rank - 1], AGREES)]
    if not apart:
        wrong = [rank for rank in range(ranks) if not own[rank].finite]
        return (Origin.STATE if len(wrong) == ranks else Origin.DATA), ()
    both = [rank for rank in range(ranks) if not own[rank].finite and not moved[rank].finite]
    if both:
        return Origin.RANK, tuple(both)
    # A rank that errs makes both its own batch and the next rank's come out otherwise than elsewhere.
    blamed = set.intersection(*({rank, (rank - 1) % ranks} for rank in apart)) or set(apart)
    return Origin.RANK, (max(blamed, key=lambda rank: min(own[rank].gradient, moved[rank].gradient)),)


def _by_data_rank(seen: Sequence[_Seen], ranks: int) -> list[Own]:
    """Ranks that share a replica of the model made one result together."""
    groups = [[s.own for s in seen if s.data_rank == rank] for rank in range(ranks)]
    return [Own(sum(o.loss for o in group), math.hypot(*(o.gradient for o in group))) for group in groups]


def _on(node: str, message: str) -> HardwareError:
    error = HardwareError(f"{message}; it is left out at the next start")
    error.node = node
    return error


@contextmanager
def _born(chunks: Sequence[torch.nn.Module]) -> Iterator[list[tuple[str, bool]]]:
    """The modules that make no number out of numbers, in their order, each with whether its own weights are numbers."""
    found: list[tuple[str, bool]] = []

    def watch(name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def look(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if _finite(inputs) and not _finite(output):
                found.append((name, all(_finite(weight) for weight in module.parameters())))

        return look

    hooks = [module.register_forward_hook(watch(name)) for chunk in chunks for name, module in chunk.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    return all(map(_finite, value)) if isinstance(value, tuple | list) else True
