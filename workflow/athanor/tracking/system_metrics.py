"""The machine's load while a stage runs, sampled by a thread into the spool under MLflow's own names."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from athanor.tracking.spool import Spool

MEGABYTE = 1e6
NVIDIA_SMI_SECONDS = 10.0


class Sampler:
    """Appends one record of kind system at once and then every `every_seconds` until the context closes."""

    def __init__(self, spool: "Spool", folder: Path, every_seconds: float) -> None:
        import psutil

        self._spool, self._folder, self._every = spool, folder, every_seconds
        self._process = psutil.Process()
        self._network, self._disks = psutil.net_io_counters(), psutil.disk_io_counters()
        self._gpus_known = shutil.which("nvidia-smi") is not None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def __enter__(self) -> "Sampler":
        self.sample()  # the first call also starts psutil's intervals
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()

    def sample(self) -> dict[str, float]:
        """Processor and memory of the node and of this process, the store's disk, every GPU of the node, and what its network
        and disks have moved since the stage began."""
        import psutil

        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._folder)
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": self._process.memory_info().rss / MEGABYTE,
            "disk_usage_percentage": 100 * disk.used / disk.total,
            "disk_available_megabytes": disk.free / MEGABYTE,
            **self._moved(),
            **(self._gpus() if self._gpus_known else {}),
        }

    def _moved(self) -> dict[str, float]:
        """Megabytes; nothing of what the kernel does not count, as of disks in some containers."""
        import psutil

        network, disks = psutil.net_io_counters(), psutil.disk_io_counters()
        found = {}
        if network and self._network:
            found["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / MEGABYTE
            found["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / MEGABYTE
        if disks and self._disks:
            found["disk_read_megabytes"] = (disks.read_bytes - self._disks.read_bytes) / MEGABYTE
            found["disk_write_megabytes"] = (disks.write_bytes - self._disks.write_bytes) / MEGABYTE
        return found

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            try:
                self._spool.system(self.sample())
            except OSError as error:  # a full disk stops the sampling, the stage itself says what it cannot write
                print(f"tracking: no more system metrics: {error}", file=sys.stderr, flush=True)
                return

    def _gpus(self) -> dict[str, float]:
        """Utilisation and memory by GPU; empty, and not asked again, where nvidia-smi does not answer."""
        fields = "index,utilization.gpu,memory.used,memory.total,power.draw"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            self._gpus_known = False
            return {}
        return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> dict[str, float]:
    """Metrics from nvidia-smi's lines `index, percent, MiB used, MiB total, watt`; what is not a number is left out."""
    names = ("utilization_percentage", "memory_usage_megabytes", "memory_total_megabytes", "power_usage_watts")
    found = {}
    for line in text.splitlines():
        index, *values = (part.strip() for part in line.split(","))
        for name, value in zip(names, values, strict=False):
            try:
                found[f"gpu_{index}_{name}"] = float(value)
            except ValueError:  # [N/A]
                continue
    return found
