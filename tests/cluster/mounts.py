"""Small file systems in memory that a cluster's jobs and its login node see alike, and that can be filled."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from .configuration import ClusterError, Layout
from .processes import daemon

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPEN_TREE, _MOVE_MOUNT = 428, 429  # numbers of system calls, the same on every architecture
_HERE = -100  # AT_FDCWD
_CLONE, _FROM_DESCRIPTOR = 1, 4  # OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH


def source_of(layout: Layout) -> str:
    """Return the name by which the cluster's own file systems are known in the table of mounts."""
    return f"athanor-test-cluster:{layout.folder}"


def mounted(layout: Layout) -> list[Path]:
    """List where the cluster's file systems are mounted on the login node, newest first."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(words[1]) for words in reversed(lines) if words[0] == source_of(layout)]


def mount(layout: Layout, path: Path, megabytes: int) -> None:
    """Mount a file system of this size for the login node and all nodes that run; others see it when they start."""
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", source_of(layout), str(path))
    try:
        for node in layout.nodes:
            pid = daemon(layout, f"slurmd.{node}")
            if pid is not None:
                _attach(path, pid)
    except BaseException:
        _run("umount", "--lazy", str(path))
        raise


def resize(path: Path, megabytes: int) -> None:
    """Give a mounted file system another size."""
    _run("mount", "-o", f"remount,size={megabytes}m", str(path))


def unmount_all(layout: Layout) -> None:
    """Take the login node's mounts away; the nodes' own went with their last process."""
    for path in mounted(layout):
        _run("umount", "--lazy", str(path))


def _attach(path: Path, pid: int) -> None:
    """Mount what is at `path` at the same path where process `pid` lives."""
    tree = _system_call(_OPEN_TREE, _HERE, os.fsencode(path), _CLONE)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    child = os.fork()  # only a process with a single thread may change its mount namespace
    if child == 0:
        try:
            _check(_LIBC.setns(namespace, 0), "setns")
            _system_call(_MOVE_MOUNT, tree, b"", _HERE, os.fsencode(path), _FROM_DESCRIPTOR)
            os._exit(0)
        except ClusterError as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(1)
    os.close(namespace)
    os.close(tree)
    if os.waitpid(child, 0)[1] != 0:
        raise ClusterError(f"{path} could not be mounted on the nodes")


def _system_call(number: int, *arguments: int | bytes) -> int:
    return _check(_LIBC.syscall(number, *arguments), f"system call {number}")


def _check(result: int, what: str) -> int:
    if result < 0:
        raise ClusterError(f"{what} failed: {os.strerror(ctypes.get_errno())}; mounting for other namespaces needs Linux 5.2")
    return result


def _run(*command: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {answer.stderr.strip()}")
