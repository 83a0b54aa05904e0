"""A profile on demand: a request in the artifact's folder makes every rank of the running job trace its next steps."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

REQUEST = "profile.json"
TRACES = "profile"


class Profiler:
    """Traces of torch's profiler, one file a rank, for chrome://tracing or ui.perfetto.dev."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._request, self._traces, self._rank = folder / REQUEST, folder / TRACES, rank
        self._profile: torch.profiler.profile | None = None
        self._first = self._left = 0

    def asked(self) -> int:
        """On rank 0: how many steps are to be traced from the next one on. The step's reduction tells the others."""
        if self._rank != 0 or self._profile is not None or not self._request.is_file():
            return 0
        try:
            return max(0, int(json.loads(self._request.read_text())["steps"]))
        except (ValueError, KeyError, TypeError):
            self._request.unlink()  # nobody's request
            return 0

    def begin(self, step: int, steps: int) -> None:
        """Behind `step`, on all ranks together."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._first, self._left = step + 1, steps
        self._profile = torch.profiler.profile(activities=activities)
        self._profile.start()

    def step_done(self, step: int) -> None:
        """After every step, on all ranks together: writes the traces behind the last of them."""
        if self._profile is None:
            return
        self._left -= 1
        if self._left:
            return
        self._profile.stop()
        self._traces.mkdir(exist_ok=True)
        self._profile.export_chrome_trace(str(self._traces / f"steps-{self._first}-{step}-rank-{self._rank}.json.gz"))
        self._profile = None
        dist.barrier()
        if self._rank == 0:
            print(f"traced steps {self._first} to {step}: {self._traces}", flush=True)
            self._request.unlink(missing_ok=True)  # says that all traces are there
