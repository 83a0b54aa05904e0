"""A real Slurm in a temporary folder: munged, slurmctld and several slurmd on loopback, no systemd, no cgroups.

A fake node claims cores, memory and GPUs that the machine lacks. Each lives in a mount and UTS namespace of its own, so
that node names resolve and `hostname` says the node's name. Needs root and Debian's Slurm packages.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import accounting, mounts, processes
from .commands import install_wrappers, search_path
from .configuration import ClusterError, Layout, Ports, write_configuration

INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare")
# Below the ports that Linux gives to connections (32768) and those of the executor's ranks (20000): a connection of anybody
# would keep a daemon from coming back, and a stranger on a dead node's port would answer for it.
_PORTS = range(10000, 20000)
_START_SECONDS = 60.0
_ASK_SECONDS = 60.0


def missing_requirements(with_accounting: bool = False) -> str:
    """Say what keeps a cluster from starting here; empty when nothing does."""
    wanted = dict.fromkeys(PROGRAMS, INSTALL)
    if with_accounting:
        wanted |= dict.fromkeys(accounting.PROGRAMS, accounting.INSTALL)
    absent = [name for name in wanted if shutil.which(name, path=search_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed; run: {' && '.join(dict.fromkeys(wanted[name] for name in absent))}"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root here: make test as root runs this"
    return ""


@dataclass(frozen=True)
class Job:
    """One job as squeue shows it."""

    id: str
    """As it is typed; `7_2` for a task of an array."""
    own_id: str
    """The number that Slurm gave it, also to a task of an array."""
    state: str
    partition: str
    nodes: str
    """Slurm's list of the nodes that it has, such as `node[1-2]`; empty while it waits."""
    node_count: int


@dataclass
class SlurmCluster:
    """One cluster and its folder."""

    layout: Layout

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make Slurm's commands talk to this cluster, through the wrappers that a fault can disturb."""
        path = os.pathsep.join([str(self.layout.programs), search_path()])
        return {"SLURM_CONF": str(self.layout.configuration), "PATH": path}

    def start(self) -> None:
        """Bring everything up; on any failure take everything down again."""
        problem = missing_requirements(self.layout.accounting)
        if problem:
            raise ClusterError(problem)
        controller, slurmd, database, *nodes = _free_ports(3 + len(self.layout.nodes))
        write_configuration(self.layout, Ports(controller, slurmd, database, tuple(nodes)))
        install_wrappers(self.layout)
        try:
            self._start_munge()
            if self.layout.accounting:
                accounting.start_accounting(self)
            self.start_controller()
            for node in self.layout.nodes:
                self.start_node(node)
            self.wait(self._all_idle, "slurmd")
        except BaseException:
            self.stop()
            raise

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers; it continues from the state that it finds."""
        self.start_daemon("slurmctld", ["slurmctld", "-D", "-f", str(self.layout.configuration)])
        self.wait(lambda: " is UP" in self.ask("scontrol", "ping"), "slurmctld")

    def start_node(self, node: str) -> None:
        """Start the slurmd of one node. The bind mount of its spool on itself tells the node's processes from others."""
        (self.layout.spool / node).mkdir(exist_ok=True)
        script = (
            'hostname "$1" && mkdir -p /etc/slurm && mount --bind "$2/etc" /etc/slurm && '
            'mount --bind "$2/etc/hosts" /etc/hosts && mount --bind "$2/spool/$1" "$2/spool/$1" && '
            'HOSTNAME=$1 exec slurmd -D -N "$1" -f "$2/etc/slurm.conf"'
        )
        namespaces = ["unshare", "--mount", "--uts", "--propagation", "private"]
        self.start_daemon(f"slurmd.{node}", [*namespaces, "sh", "-c", script, "sh", node, str(self.layout.folder)])

    def stop(self) -> None:
        """Kill every process of the cluster, its jobs included, and take its file systems away."""
        processes.kill(self.processes)
        mounts.unmount_all(self.layout)

    def processes(self) -> list[int]:
        """List the pids of the cluster's daemons and jobs."""
        return processes.of_cluster(self.layout)

    def daemon(self, name: str) -> int | None:
        """Return the pid of a daemon, such as `slurmctld` or `slurmd.node1`; None when it doesn't run."""
        return processes.daemon(self.layout, name)

    def ask(self, *command: str) -> str:
        """Run a Slurm command against this cluster and return what it printed; an error is in there too."""
        answer = self._run(*command)
        return answer.stdout + answer.stderr

    def order(self, *command: str) -> str:
        """Run a Slurm command that must succeed; return what it printed, raise ClusterError with its words otherwise."""
        answer = self._run(*command)
        if answer.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer.stdout

    def job_states(self) -> dict[str, str]:
        """Return the state of every job that Slurm remembers, by id."""
        return {job.id: job.state for job in self.jobs()}

    def jobs(self) -> list[Job]:
        """List all jobs that Slurm remembers; raise ClusterError when it doesn't answer."""
        lines = self.order("squeue", "-h", "--states=all", "-o", "%i|%A|%T|%P|%N|%D").splitlines()
        return [Job(*words[:5], int(words[5])) for words in (line.split("|") for line in lines)]

    def node_states(self, node: str) -> set[str]:
        """Return what Slurm says about a node, such as `down*`, in any of its partitions; nothing when it doesn't answer."""
        # Of a single node (-n), slurmctld 22.05 may say `mixed*` for good when it is down: only a question about all of them
        # makes it count anew.
        lines = self._run("sinfo", "-h", "-N", "-o", "%N %T").stdout.splitlines()
        return {state for name, state in (line.split() for line in lines) if name == node}

    def start_daemon(self, name: str, command: list[str], variables: dict[str, str] | None = None) -> None:
        """Start a daemon in a session of its own; what it prints goes to log/NAME.out."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        own = {**self._direct, processes.MARK: str(self.layout.folder), processes.DAEMON_MARK: name, **(variables or {})}
        with (self.layout.folder / "log" / f"{name}.out").open("ab") as log:
            subprocess.Popen(
                command,
                cwd=self.layout.folder,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **own},
            )

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until `ready()`; raise ClusterError with the ends of the logs of `what` when it takes too long."""
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

    @property
    def _direct(self) -> dict[str, str]:
        """The environment without the wrappers: what disturbs drivers must not disturb the one who watches them."""
        return {**self.environment, "PATH": search_path()}

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self._direct}
        try:
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{' '.join(command)} took more than {_ASK_SECONDS:.0f} s") from error

    def _start_munge(self) -> None:
        folder = self.layout.folder
        key = folder / "etc" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.start_daemon(
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
        self.wait(lambda: "MUNGE:" in self.ask("munge", "-n", "-S", f"{folder}/run/munge.sock"), "munged")

    def _all_idle(self) -> bool:
        return all(self.node_states(node) == {"idle"} for node in self.layout.nodes)


@contextlib.contextmanager
def running_cluster(
    folder: Path, nodes: tuple[str, ...] = ("node1", "node2"), accounting: bool = False, memory_limits: bool = False
) -> Iterator[SlurmCluster]:
    """Run a cluster in `folder` for the length of the block."""
    cluster = SlurmCluster(Layout(folder, nodes, accounting, memory_limits))
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _free_ports(count: int) -> list[int]:
    """Choose ports that nobody listens on; random ones, for others may be starting clusters now."""
    return list(itertools.islice(filter(_is_free, random.sample(_PORTS, len(_PORTS))), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
