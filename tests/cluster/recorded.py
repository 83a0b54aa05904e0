"""What Slurm 22.05.8 said on a cluster with accounting, recorded; and the jobs of stages as the rules ask for them."""

import shutil
from collections.abc import Callable, Mapping, Sequence

import pytest

from athanor.cluster.commands import Answer, Ask
from athanor.cluster.inventory import Inventory, take_inventory
from athanor.cluster.jobs import StageJob

needs_srun = pytest.mark.skipif(
    shutil.which("srun") is None, reason="no srun, for which submitit writes batch scripts: SERVERS=1 make test installs Slurm"
)

USER = "ada"
SINFO = """\
cpu*|up|4:00:00|2|64|524288|(null)|idle
gpu|up|2-00:00:00|3|96|1031000|gpu:h100:8(S:0-1),nvme:1|mixed
gpu|up|2-00:00:00|1|96|1031000|gpu:h100:8(S:0-1),nvme:1|drained
debug|up|30:00|1|64|524288|gpu:a100:4|idle
closed|down|infinite|2|64|524288|(null)|idle
broken|up|infinite|1|64|524288|(null)|down*
"""
CONFIG = """\
Configuration data as of 2026-11-26T15:19:50
AccountingStorageEnforce = associations,limits,qos
AccountingStorageHost   = 127.0.0.1
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/mini/munge.sock,cred_expire=5
AuthType                = auth/munge
ClusterName             = mini
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at login is UP
"""
ASSOCIATIONS = "mygroup||long,normal\nspecial|gpu|normal\n"
NO_ACCOUNTING = CONFIG.replace("accounting_storage/slurmdbd", "accounting_storage/none")
ACCEPTED = Answer(0, "", "sbatch: Job 1 to start at 2026-11-26T15:19:51 using 1 processors on nodes cpu1 in partition cpu\n")
REFUSED = Answer(1, "", "allocation failure: Invalid account or account/partition combination specified\n")

_KEYS = ("partition", "account", "qos", "constraint", "extra", "runtime", "memory", "cpus_per_task", "gpus_per_node", "python")


class Recorded:
    """Answers a command by its first words; remembers what was asked."""

    def __init__(self, answers: Mapping[str, Answer | Callable[[Sequence[str]], Answer]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str]) -> Answer:
        """Answer as Slurm did."""
        words = " ".join(command)
        self.asked.append(words)
        answer = next((a for start, a in self.answers.items() if words.startswith(start)), Answer(127, "", "not installed"))
        return answer(command) if callable(answer) else answer


def slurm(config: str = CONFIG, sinfo: str = SINFO, associations: str = ASSOCIATIONS, sbatch: Answer = ACCEPTED) -> Recorded:
    """The recorded cluster, or one that differs in some answer."""
    return Recorded(
        {
            "sinfo": Answer(0, sinfo),
            "scontrol show config": Answer(0, config),
            "sacctmgr -n -P show associations": Answer(0, associations),
            "sacctmgr -n -P show user": Answer(0, "ada|mygroup\n"),
            "sbatch --test-only": sbatch,
            "sh -c munge": Answer(0, "STATUS:          Success (0)\n"),
        }
    )


def inventory(ask: Ask | None = None) -> Inventory:
    """What the recorded cluster has."""
    return take_inventory(ask or slurm(), USER)


def stage_job(stage: str = "pretrain", prefix: str = "", python: str = "/venv/bin/python", **resources: object) -> StageJob:
    """The job of a stage whose site entry sets everything itself."""
    keys = {key: f"resources.{stage}.{key}" for key in (*_KEYS, "launch_prefix")}
    return StageJob(
        (stage,), {"nodes": 1, "tasks": 1, "cpus_per_task": 1, **resources}, prefix, python, keys, {"torch": "2.13.0"}
    )
