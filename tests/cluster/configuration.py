"""The configuration of the test cluster: everything on loopback, and failure handling at test speed."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

CLUSTER_NAME = "test"
GPUS_PER_NODE = 8
CPUS_PER_NODE = 64
MEMORY_MB_PER_NODE = 524288
_LONGEST_FOLDER = 80  # characters; munge's socket lies below, and a socket's path has at most 107

SLURM_CONF = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job is held back for cred_expire + 1 s, 120 by default.
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
PlugStackConfig={folder}/etc/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
JobCompType=jobcomp/none
# Nodes may claim more than the machine has.
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
TCPTimeout=2
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
KillWait=5
InactiveLimit=0
MinJobAge=300
MaxJobCount=20000
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""

ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/run/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""

# Every second, each slurmstepd adds up what its processes hold: the only enforcement without cgroups.
MEMORY_LIMITS = """
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
"""


class ClusterError(RuntimeError):
    """The cluster did not come up, went away, or refuses what it is asked."""


@dataclass(frozen=True)
class Ports:
    """Free ports on loopback."""

    controller: int
    slurmd: int
    """Slurm's default for nodes without one of their own: none here."""
    accounting: int
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where a cluster lies, which nodes it has, and what else."""

    folder: Path
    nodes: tuple[str, ...]
    accounting: bool = False
    """slurmdbd with a MariaDB of its own, so that sacct answers."""
    memory_limits: bool = False
    """Jobs that use more memory than they asked for are killed."""

    @property
    def configuration(self) -> Path:
        """slurm.conf, which must not be called otherwise: slurmd looks for the other files beside it."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def spool(self) -> Path:
        """The nodes' own folders."""
        return self.folder / "spool"

    @property
    def programs(self) -> Path:
        """Wrappers of Slurm's commands, first in the PATH of whoever uses the cluster."""
        return self.folder / "bin"


def read_layout(folder: Path) -> Layout:
    """Return the layout of the cluster that was started in `folder`; raise ClusterError when there is none."""
    try:
        values = json.loads((folder / "etc" / "layout.json").read_text())
    except FileNotFoundError:
        raise ClusterError(f"there is no cluster in {folder}; start one: python -m tests.cluster start {folder}") from None
    return Layout(folder, tuple(values["nodes"]), values["accounting"], values["memory_limits"])


def write_configuration(layout: Layout, ports: Ports) -> None:
    """Write the cluster's folder."""
    _check_folder(str(layout.folder))
    for name in ("etc", "log", "run", "state", "spool", "dev", "bin"):
        (layout.folder / name).mkdir(parents=True, exist_ok=True)
        (layout.folder / name).chmod(0o755)
    layout.folder.chmod(0o755)
    values = {key: value for key, value in asdict(layout).items() if key != "folder"}
    (layout.folder / "etc" / "layout.json").write_text(json.dumps(values))
    layout.configuration.write_text(_slurm_conf(layout, ports))
    for gpu in range(GPUS_PER_NODE):  # slurmd insists on character devices, and follows links
        device = layout.folder / "dev" / f"nvidia{gpu}"
        device.unlink(missing_ok=True)
        device.symlink_to("/dev/null")
    gres = [f"NodeName={node} Name=gpu Type=h100 File={layout.folder}/dev/nvidia[0-{GPUS_PER_NODE - 1}]" for node in layout.nodes]
    (layout.folder / "etc" / "gres.conf").write_text("\n".join(gres) + "\n")
    (layout.folder / "etc" / "plugstack.conf").write_text("")
    hosts = Path("/etc/hosts").read_text() + f"\n127.0.0.1 {' '.join(layout.nodes)}\n"
    (layout.folder / "etc" / "hosts").write_text(hosts)
    if layout.accounting:
        database = layout.folder / "etc" / "slurmdbd.conf"
        database.write_text(SLURMDBD_CONF.format(folder=layout.folder, accounting_port=ports.accounting))
        database.chmod(0o600)  # slurmdbd insists


def _check_folder(folder: str) -> None:
    """Raise ClusterError when a cluster cannot lie there."""
    if len(folder) > _LONGEST_FOLDER:
        raise ClusterError(
            f"{folder} has {len(folder)} characters, a socket in it needs at most {_LONGEST_FOLDER}; "
            "use a folder right below /tmp"
        )
    if odd := re.search(r"[^A-Za-z0-9_./-]", folder):
        raise ClusterError(f"{folder} has a {odd.group()!r}, which slurm.conf takes for its own; use letters, digits, . _ and -")


def _slurm_conf(layout: Layout, ports: Ports) -> str:
    host = socket.gethostname().split(".")[0]
    folder = layout.folder
    own = {"name": CLUSTER_NAME, "host": host, "folder": folder}
    lines = [SLURM_CONF.format(**own, controller_port=ports.controller, slurmd_port=ports.slurmd)]
    lines.append(
        ACCOUNTING.format(folder=folder, accounting_port=ports.accounting)
        if layout.accounting
        else "AccountingStorageType=accounting_storage/none"
    )
    lines.append(MEMORY_LIMITS if layout.memory_limits else "JobAcctGatherType=jobacct_gather/none")
    for node, port in zip(layout.nodes, ports.nodes, strict=True):
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
            f"RealMemory={MEMORY_MB_PER_NODE} Gres=gpu:h100:{GPUS_PER_NODE} State=UNKNOWN"
        )
    shared = f"Nodes={','.join(layout.nodes)} MaxTime=INFINITE State=UP"
    lines.append(f"PartitionName=main {shared} Default=YES PriorityTier=10 PreemptMode=OFF")
    lines.append(f"PartitionName=preempt {shared} PriorityTier=1 PreemptMode=REQUEUE GraceTime=5")
    return "\n".join(lines) + "\n"
