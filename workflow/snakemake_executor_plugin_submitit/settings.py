"""What a user may set: the `--submitit-*` flags, and what Snakemake must know about this executor."""

# No `from __future__ import annotations` here: Snakemake reads the types of the fields at run time.

import shutil
import subprocess
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase


class Cluster(StrEnum):
    """Where jobs run."""

    AUTO = "auto"
    SLURM = "slurm"
    LOCAL = "local"


class OnInterrupt(StrEnum):
    """What Ctrl-C does to the jobs that are running."""

    DETACH = "detach"
    CANCEL = "cancel"


class GivenUp(StrEnum):
    """What to do about jobs that an earlier driver gave up."""

    START = "start"
    LEAVE = "leave"


class LauncherChoice(StrEnum):
    """How a rule's command gets to its ranks."""

    AUTO = "auto"
    DIRECT = "direct"
    NESTED = "nested"


def _flag(default: object, help: str, choices: type[StrEnum] | None = None) -> Any:
    metadata: dict[str, object] = {"help": help, "env_var": False, "required": False}
    if choices is not None:
        metadata["choices"] = [str(choice) for choice in choices]
    return field(default=default, metadata=metadata)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """The flags of `--executor submitit`."""

    cluster: str = _flag("auto", "Where jobs run; auto: Slurm where sbatch has a cluster to talk to.", Cluster)
    on_interrupt: str = _flag(
        "detach", "What Ctrl-C does to running jobs; detached ones are adopted by the next run.", OnInterrupt
    )
    launcher: str = _flag(
        "auto",
        "direct: the rule's shell command on every rank; nested: a Snakemake on one task; auto: direct where the rule allows it.",
        LauncherChoice,
    )
    end_poll_seconds: float = _flag(
        0.0, "Seconds between looks at the end markers of running jobs (0: 0.15 on the local machine, 1 on Slurm)."
    )
    queue_poll_seconds: float = _flag(30.0, "Seconds between questions to Slurm about jobs that gave no sign.")
    signal_delay_seconds: int = _flag(120, "Seconds before the time limit at which a job is asked to stop softly.")
    array_size: int = _flag(1000, "Most equal jobs that are submitted to Slurm as one array (1: no arrays).")
    policy: str = _flag(
        "", "module:function that judges an ended attempt (Evidence → Judgement or None) before the built-in table."
    )
    requeuer_seconds: float = _flag(
        0.0, "Seconds for which a failed job is left to another requeuer of the site (0: only where one was seen at work)."
    )
    given_up: str = _flag(
        "start", "Jobs that an earlier run gave up: start them again, or leave them (for a run that nobody watches).", GivenUp
    )
    idle_attempts: int = _flag(3, "Attempts in a row without progress after which a job is given up instead of started again.")
    idle_starts: int = _flag(20, "Starts in a row without progress after which a requeued job refuses to start (0: never).")
    hang_seconds: int = _flag(
        1800, "Silence of a program that marks its progress which is taken for a hang (0: none is; resource: hang_seconds)."
    )
    hang_multiple: float = _flag(10.0, "A hang is also longer than this many of the program's usual pauses between marks.")
    bad_nodes: str = _flag(".submitit/nodes", "Folder that remembers nodes which failed a job (resource: bad_nodes).")
    bad_node_hours: float = _flag(24.0, "Hours for which a node that failed a job is excluded (0: never exclude).")
    local_cores: int = _flag(0, "Cores that local jobs may use together (0: those this process may run on).")
    local_mem_mb: int = _flag(0, "Memory in MB that local jobs may use together (0: the machine's).")


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


def checked(settings: ExecutorSettings) -> ExecutorSettings:
    """Return `settings`, or raise a WorkflowError that lists every value which makes no sense."""
    problems = []
    for name, choices in (
        ("cluster", Cluster),
        ("on_interrupt", OnInterrupt),
        ("launcher", LauncherChoice),
        ("given_up", GivenUp),
    ):
        value = getattr(settings, name)
        if value not in [str(choice) for choice in choices]:
            allowed = ", ".join(choices)
            problems.append(f"--submitit-{name.replace('_', '-')}={value}: use one of {allowed}")
    for item in fields(ExecutorSettings):
        value = getattr(settings, item.name)
        if isinstance(value, int | float) and value < 0:
            problems.append(f"--submitit-{item.name.replace('_', '-')}={value}: must not be negative")
    for name in ("idle_attempts", "array_size"):
        if getattr(settings, name) < 1:
            problems.append(f"--submitit-{name.replace('_', '-')}={getattr(settings, name)}: must be at least 1")
    if problems:
        raise WorkflowError("submitit executor: " + "; ".join(problems))
    return settings


def resolve_cluster(choice: str) -> Cluster:
    """Return the cluster that `choice` means on this machine.

    An installed sbatch without any configuration (a package on a laptop) is no cluster. A cluster whose controller is
    down is one: falling back to the login node would start training there.
    """
    if Cluster(choice) is not Cluster.AUTO:
        return Cluster(choice)
    if shutil.which("sbatch") is None or shutil.which("scontrol") is None:
        return Cluster.LOCAL
    answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=120, check=False)
    unconfigured = "configuration source" in answer.stderr or "process configuration file" in answer.stderr
    return Cluster.LOCAL if unconfigured else Cluster.SLURM
