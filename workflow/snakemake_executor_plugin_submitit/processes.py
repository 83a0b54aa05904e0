"""Which process is which: a pid alone is reused, a pid with its start time on a host is not."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessName:
    """One process on one machine, for good."""

    host: str
    """Name of the machine."""
    pid: int
    """Process id there."""
    started: str
    """Start time in clock ticks since boot, with the boot's id and the pid namespace: a reused pid has another."""


def start_time(pid: int) -> str | None:
    """Return when process `pid` of this machine started, or None when it has ended (a zombie has ended)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{fields[19]}@{_boot_id()}/{_pid_namespace()}"


def name_of(pid: int) -> ProcessName | None:
    """Return the name of process `pid` of this machine, or None when it has ended."""
    started = start_time(pid)
    return None if started is None else ProcessName(socket.gethostname(), pid, started)


def this_process() -> ProcessName:
    """Return the name of the calling process."""
    name = name_of(os.getpid())
    if name is None:
        raise RuntimeError(f"/proc/{os.getpid()}/stat is missing: the submitit executor needs a mounted /proc")
    return name


def is_here(process: ProcessName) -> bool:
    """Say whether `process` belongs to this machine, so that its life can be asked for."""
    boot, _, namespace = process.started.partition("@")[2].partition("/")
    # Two containers may have the same name; a process of an earlier boot is of this machine, and dead.
    return process.host == socket.gethostname() and (boot != _boot_id() or namespace == _pid_namespace())


def is_alive(process: ProcessName) -> bool:
    """Say whether `process`, which must belong to this machine, still runs."""
    return start_time(process.pid) == process.started


@functools.cache
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read(8)


@functools.cache
def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid").strip("pid:[]")
