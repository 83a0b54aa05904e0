"""Jobs on this machine: submitit's local executor with a controller that outlives the driver, and a queue for cores."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import submitit
from submitit.core.core import R
from submitit.local.local import LocalJob

from .resources import Request


class DetachedLocalExecutor(submitit.LocalExecutor):
    """submitit's local executor, with one of our controllers per job, in its own session."""

    def __init__(self, attempt_folder: Path, submitit_folder: Path) -> None:
        super().__init__(submitit_folder, max_num_timeout=10**6)
        self.attempt_folder = attempt_folder

    @classmethod
    def name(cls) -> str:
        """Return the name by which submitit's environment on the ranks knows this executor."""
        return "local"

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -m {__package__}.rank {shlex.quote(str(self.folder))}"

    def _submit_command(self, command: str) -> LocalJob[R]:
        ranks = self.parameters["tasks_per_node"]
        env = dict(
            os.environ,
            SUBMITIT_LOCAL_NTASKS=str(ranks),
            SUBMITIT_LOCAL_COMMAND=command,
            SUBMITIT_LOCAL_TIMEOUT_S=str(60 * self.parameters["timeout_min"]),
            SUBMITIT_LOCAL_SIGNAL_DELAY_S=str(self.parameters["signal_delay_s"]),
            SUBMITIT_LOCAL_NODEID="0",
            SUBMITIT_LOCAL_JOB_NUM_NODES="1",
            SUBMITIT_EXECUTOR="local",
        )
        if self.parameters["devices"]:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.parameters["devices"])
        controller = [sys.executable, "-m", f"{__package__}.controller", str(self.attempt_folder)]
        with (self.attempt_folder / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                _after(self.parameters["setup"], controller),
                env=env,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=list(range(ranks)))


def _after(setup: Sequence[str], command: list[str]) -> list[str]:
    """Put the setup lines before `command`, which keeps the pid of the whole."""
    return ["/bin/bash", "-c", "\n".join([*setup, f"exec {shlex.join(command)}"])] if setup else command


@dataclass(frozen=True)
class Machine:
    """What local jobs may use together."""

    cores: int
    mem_mb: int
    devices: tuple[str, ...] = ()
    """GPUs, as CUDA_VISIBLE_DEVICES names them."""


def this_machine(cores: int = 0, mem_mb: int = 0) -> Machine:
    """Return this machine's cores, memory and GPUs; `cores` and `mem_mb` replace what is found."""
    return Machine(cores or len(os.sched_getaffinity(0)), mem_mb or _memory_mb(), _devices())


def _memory_mb() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue  # another version of cgroups, or none
        if limit.isdigit():
            total = min(total, int(limit))
    return total // 2**20


def _devices() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    names = [path.name for path in Path("/dev").iterdir()]
    return tuple(sorted((name[6:] for name in names if re.fullmatch(r"nvidia\d+", name)), key=int))


@dataclass
class LocalQueue:
    """Keeps local jobs within the machine: a job larger than the machine alone."""

    machine: Machine
    held: dict[str, tuple[Request, tuple[str, ...]]] = field(default_factory=dict)
    """What each running job has, by its uid."""

    def fits(self, request: Request) -> bool:
        """Say whether `request` may start now."""
        return not self.held or (
            self._used_cores() + request.cores <= self.machine.cores
            and self._used_mem_mb() + request.mem_mb <= self.machine.mem_mb
            and request.gpus_per_node <= len(self._free_devices())
        )

    def excess(self, request: Request) -> str:
        """Name what `request` wants beyond the whole machine; empty when it fits on it."""
        wants = (
            ("cores", request.cores, self.machine.cores),
            ("mem_mb", request.mem_mb, self.machine.mem_mb),
            ("GPUs", request.gpus_per_node, len(self.machine.devices)),
        )
        return ", ".join(f"{name}={wanted} of {present}" for name, wanted, present in wants if wanted > present)

    def take(self, uid: str, request: Request) -> tuple[str, ...]:
        """Give job `uid` what it asks for; return its GPUs."""
        devices = self._free_devices()[: request.gpus_per_node]
        self.held[uid] = (request, devices)
        return devices

    def give_back(self, uid: str) -> None:
        """Take back what job `uid` had, if anything."""
        self.held.pop(uid, None)

    def _used_cores(self) -> int:
        return sum(request.cores for request, _ in self.held.values())

    def _used_mem_mb(self) -> int:
        return sum(request.mem_mb for request, _ in self.held.values())

    def _free_devices(self) -> tuple[str, ...]:
        taken = {name for _, devices in self.held.values() for name in devices}
        return tuple(name for name in self.machine.devices if name not in taken)
