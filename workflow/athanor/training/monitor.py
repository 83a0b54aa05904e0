"""What a user watches training by: rates, the parts of a step, memory, losses by domain, and ranks that are slow.

Everything is measured on each rank and brought together at the steps that are logged, by one gather.
"""

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from athanor.artifacts.files import write_json
from athanor.recipe.schema.training import Model, Training
from athanor.training.stopwatch import Part, Stopwatch
from athanor.training.utilisation import flops_per_token, known_peak

RANKS = "ranks.json"


class Place(Protocol):
    """A rank's, among all."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def data_rank(self) -> int:
        """Which samples it reads."""
        ...

    @property
    def nodes(self) -> tuple[str, ...]:
        """Of each rank."""
        ...


class Watched(Protocol):
    """What trains: where, and on what it spends its time."""

    @property
    def layout(self) -> Place:
        """This rank's."""
        ...

    @property
    def clock(self) -> Stopwatch:
        """The parts of its steps."""
        ...


class Monitor:
    """Of one attempt. Its methods are called by all ranks together."""

    def __init__(
        self, folder: Path, learner: Watched, model: Model, settings: Training, peak_tflops: float, domains: Sequence[str]
    ) -> None:
        """`domains`: all that a sample may be of, the same on all ranks; none where nobody knows a sample's."""
        self._folder, self._learner = folder, learner
        self._flops = flops_per_token(model, settings.sequence_length)
        self.peak = known_peak(settings.precision, peak_tflops)
        self._domains = {domain: number for number, domain in enumerate(sorted(domains))}
        self._losses = torch.zeros(len(domains), 2, dtype=torch.float64, device=learner.layout.device)
        self._steps, self._tokens, self._since = 0, 0, time.perf_counter()
        self._nodes = learner.layout.nodes

    def step_done(self, tokens: int, samples: Sequence[str], losses: torch.Tensor | None) -> None:
        """A step of so many tokens over all ranks. `samples` are the domains of this rank's rows, `losses` [rows, 2] their
        summed loss and tokens; None on all pipeline stages but the last."""
        self._steps += 1
        self._tokens += tokens
        if losses is not None and samples:
            rows = torch.tensor([self._domains[domain] for domain in samples], device=losses.device)
            self._losses.index_add_(0, rows, losses)

    def take(self, step: int) -> dict[str, float]:
        """Metrics since the last look; rank 0 also leaves `ranks.json`."""
        now = time.perf_counter()
        seconds, steps, tokens = now - self._since, max(1, self._steps), self._tokens
        parts = {part: spent / steps for part, spent in self._learner.clock.take().items()}
        own = [parts[Part.COMPUTE], parts[Part.DATA], _memory_bytes(), float(self._learner.layout.data_rank)]
        everyone = self._gather(own)
        ranks = everyone[:, : len(own)].tolist()
        if dist.get_rank() == 0:
            self._leave(step, ranks)
        losses = everyone[:, len(own) :].sum(dim=0).view_as(self._losses).tolist()
        self._losses.zero_()
        self._steps, self._tokens, self._since = 0, 0, now
        speed = tokens / seconds
        metrics = {
            "tokens_per_second": speed,
            "step_seconds": seconds / steps,
            "tokens_per_second_per_rank": speed / len(self._nodes),
            "memory_megabytes": max(row[2] for row in ranks) / 1e6,
            **{f"step_seconds/{part.value}": spent for part, spent in parts.items()},
            "step_seconds/other": max(0.0, seconds / steps - sum(parts.values())),
            **{f"loss/{domain}": losses[n][0] / losses[n][1] for domain, n in self._domains.items() if losses[n][1]},
        }
        if self.peak is not None:
            metrics["mfu"] = speed * self._flops / (len(self._nodes) * self.peak.flops_per_second)
        return metrics

    def _gather(self, own: list[float]) -> torch.Tensor:
        """[ranks, what is each one's own and then its losses by domain], on the CPU."""
        mine = torch.cat([torch.tensor(own, dtype=torch.float64, device=self._losses.device), self._losses.flatten()])
        everyone = [torch.empty_like(mine) for _ in self._nodes]
        dist.all_gather(everyone, mine)
        return torch.stack(everyone).cpu()

    def _leave(self, step: int, ranks: list[list[float]]) -> None:
        rows = [
            {"rank": rank, "node": node, "data_rank": int(data_rank), "compute": compute, "data": data}
            for rank, (node, (compute, data, _, data_rank)) in enumerate(zip(self._nodes, ranks, strict=True))
        ]
        write_json(self._folder / RANKS, {"schema_version": 1, "step": step, "time": time.time(), "seconds": rows}, durable=False)


def _memory_bytes() -> float:
    """The most that this rank has taken: of its GPU, or of the machine's memory."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
