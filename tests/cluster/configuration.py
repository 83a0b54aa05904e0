"""The configuration of the test cluster: everything on loopback, and failure handling at test speed."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

GPUS_PER_NODE = 8
CPUS_PER_NODE = 64
MEMORY_MB_PER_NODE = 524288
_LONGEST_FOLDER = 80  # characters; munge's socket lies below, and a socket's path has at most 107

SLURM_CONF = """
ClusterName=test
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
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
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
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""


@dataclass(frozen=True)
class Layout:
    """Where a cluster lies and which nodes it has."""

    folder: Path
    nodes: tuple[str, ...]

    @property
    def configuration(self) -> Path:
        """slurm.conf, which must not be called otherwise: slurmd looks for the other files beside it."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def spool(self) -> Path:
        """The nodes' own folders."""
        return self.folder / "spool"


def write_configuration(layout: Layout, ports: list[int]) -> None:
    """Write the cluster's folder; `ports`: the controller's, slurmd's default, and one per node."""
    if len(str(layout.folder)) > _LONGEST_FOLDER:
        raise ValueError(
            f"{layout.folder} has {len(str(layout.folder))} characters, a socket in it needs at most "
            f"{_LONGEST_FOLDER}; use a folder right below /tmp"
        )
    for name in ("etc", "log", "run", "state", "spool", "dev"):
        (layout.folder / name).mkdir(parents=True, exist_ok=True)
        (layout.folder / name).chmod(0o755)
    layout.folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    lines = [SLURM_CONF.format(host=host, folder=layout.folder, controller_port=ports[0], slurmd_port=ports[1])]
    for node, port in zip(layout.nodes, ports[2:], strict=True):
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
            f"RealMemory={MEMORY_MB_PER_NODE} Gres=gpu:h100:{GPUS_PER_NODE} State=UNKNOWN"
        )
    everywhere = ",".join(layout.nodes)
    shared = f"Nodes={everywhere} MaxTime=INFINITE State=UP"
    lines.append(f"PartitionName=main {shared} Default=YES PriorityTier=10 PreemptMode=OFF")
    lines.append(f"PartitionName=preempt {shared} PriorityTier=1 PreemptMode=REQUEUE GraceTime=5")
    layout.configuration.write_text("\n".join(lines) + "\n")
    for gpu in range(GPUS_PER_NODE):  # slurmd insists on character devices, and follows links
        device = layout.folder / "dev" / f"nvidia{gpu}"
        device.unlink(missing_ok=True)
        device.symlink_to("/dev/null")
    gres = [f"NodeName={node} Name=gpu Type=h100 File={layout.folder}/dev/nvidia[0-{GPUS_PER_NODE - 1}]" for node in layout.nodes]
    (layout.folder / "etc" / "gres.conf").write_text("\n".join(gres) + "\n")
    (layout.folder / "etc" / "plugstack.conf").write_text("")
    hosts = Path("/etc/hosts").read_text() + f"\n127.0.0.1 {' '.join(layout.nodes)}\n"
    (layout.folder / "etc" / "hosts").write_text(hosts)
