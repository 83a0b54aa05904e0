"""A real Slurm in a temporary folder: munged, slurmctld and several slurmd on loopback, no systemd, no cgroups.

A fake node claims cores, memory and GPUs that the machine lacks. Each lives in a mount and UTS namespace of its own, so
that node names resolve and `hostname` says the node's name. Needs root and Debian's Slurm packages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .configuration import Layout, write_configuration

INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare")
MARK = "ATHANOR_TEST_CLUSTER"  # in the environment of everything that a cluster runs, with the cluster's folder
_START_SECONDS = 60.0


class ClusterError(RuntimeError):
    """The cluster did not come up, or went away."""


def missing_requirements() -> str:
    """Say what keeps a cluster from starting here; empty when nothing does."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed; run: {INSTALL}"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root here"
    return ""


@dataclass
class SlurmCluster:
    """One cluster and its folder."""

    layout: Layout

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make Slurm's commands talk to this cluster."""
        return {"SLURM_CONF": str(self.layout.configuration), "PATH": _search_path()}

    def start(self) -> None:
        """Bring everything up; on any failure take everything down again."""
        problem = missing_requirements()
        if problem:
            raise ClusterError(problem)
        write_configuration(self.layout, _free_ports(2 + len(self.layout.nodes)))
        try:
            self._start_munge()
            self._start_daemon("slurmctld", ["slurmctld", "-D", "-f", str(self.layout.configuration)])
            self._wait(lambda: " is UP" in self.ask("scontrol", "ping"), "slurmctld")
            for node in self.layout.nodes:
                self.start_node(node)
            self._wait(self._all_idle, "slurmd")
        except BaseException:
            self.stop()
            raise

    def start_node(self, node: str) -> None:
        """Start the slurmd of one node."""
        (self.layout.spool / node).mkdir(exist_ok=True)
        script = (
            'hostname "$1" && mkdir -p /etc/slurm && mount --bind "$2/etc" /etc/slurm && '
            'mount --bind "$2/etc/hosts" /etc/hosts && HOSTNAME=$1 exec slurmd -D -N "$1" -f "$2/etc/slurm.conf"'
        )
        namespaces = ["unshare", "--mount", "--uts", "--propagation", "private"]
        self._start_daemon(f"slurmd.{node}", [*namespaces, "sh", "-c", script, "sh", node, str(self.layout.folder)])

    def stop(self) -> None:
        """Kill every process of the cluster, its jobs included."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            pids = self.processes()
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        raise ClusterError(f"processes of {self.layout.folder} survive SIGKILL: {self.processes()}")

    def processes(self) -> list[int]:
        """List the cluster's processes, daemons and jobs, by the mark or SLURM_CONF in their environment."""
        marks = {f"{MARK}={self.layout.folder}".encode(), f"SLURM_CONF={self.layout.configuration}".encode()}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (os.getpid(), os.getppid()):
                continue
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes().split(b"\0")
                ours = marks.intersection(environment)
                is_job = any(item.startswith(b"SLURM_JOB_ID=") for item in environment)
                if f"{MARK}={self.layout.folder}".encode() in ours or ours and is_job:
                    found.append(int(entry.name))
        return found

    def ask(self, *command: str) -> str:
        """Run a Slurm command against this cluster and return what it printed; an error is in there too."""
        answer = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return answer.stdout + answer.stderr

    def job_states(self) -> dict[str, str]:
        """Return the state of every job that Slurm remembers, by id."""
        lines = self.ask("squeue", "-h", "--states=all", "-o", "%i %T").splitlines()
        return dict(line.split()[:2] for line in lines if len(line.split()) == 2)

    def _start_munge(self) -> None:
        folder = self.layout.folder
        key = folder / "etc" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._start_daemon(
            "munged",
            [
                "munged",
                "-F",
                "--force",
                "--num-threads=2",
                f"--key-file={key}",
                f"--socket={folder}/run/munge.sock",
                f"--pid-file={folder}/run/munged.pid",
                f"--log-file={folder}/log/munged.log",
                f"--seed-file={folder}/run/munged.seed",
            ],
        )
        self._wait(lambda: "MUNGE:" in self.ask("munge", "-n", "-S", f"{folder}/run/munge.sock"), "munged")

    def _start_daemon(self, name: str, command: list[str]) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        with (self.layout.folder / "log" / f"{name}.out").open("ab") as log:
            subprocess.Popen(
                command,
                cwd=self.layout.folder,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **self.environment, MARK: str(self.layout.folder)},
            )

    def _all_idle(self) -> bool:
        lines = set(self.ask("sinfo", "-h", "-N", "-o", "%N %T").splitlines())  # one a node and partition
        return lines == {f"{node} idle" for node in self.layout.nodes}

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _START_SECONDS
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(
                    f"{path.name}: {path.read_text(errors='replace')[-600:]}"
                    for path in sorted((self.layout.folder / "log").iterdir())
                    if what in path.name
                )
                raise ClusterError(f"{what} is not up after {_START_SECONDS} s\n{logs}")
            time.sleep(0.05)


@contextlib.contextmanager
def running_cluster(folder: Path, nodes: tuple[str, ...] = ("node1", "node2")) -> Iterator[SlurmCluster]:
    """Run a cluster in `folder` for the length of the block."""
    cluster = SlurmCluster(Layout(folder, nodes))
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
