"""How a rule gets to its ranks, directly or through a Snakemake of its own, and who a job is across drivers."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import DeploymentMethod, SharedFSUsage

from .settings import LauncherChoice

if TYPE_CHECKING:
    from snakemake.jobs import AbstractJob, Job
    from snakemake.workflow import Workflow


class Launcher(StrEnum):
    """How a rule's command gets to its ranks."""

    DIRECT = "direct"
    NESTED = "nested"


@dataclass(frozen=True)
class Identity:
    """Who a job is, for every driver that wants it."""

    key: str
    """Hash of rule, wildcards and outputs."""
    spec: str
    """Hash of what it would run."""
    folder: Path
    """Its folder in the journal."""
    own_journal: bool
    """The rule's `journal` resource named the folder: its path carries the identity of the result."""


def obstacles_to_direct(workflow: Workflow, job: AbstractJob) -> list[str]:
    """List what about `job` needs a Snakemake on the far side; empty for a rule that can be launched directly."""
    if job.is_group():
        return ["group"]
    methods = workflow.deployment_settings.deployment_method
    files = [*job.input, *job.output, *job.log]
    shares_files = SharedFSUsage.INPUT_OUTPUT in workflow.storage_settings.shared_fs_usage
    found = {
        "no shell command": not job.is_shell,
        "shadow": job.is_shadow,
        "benchmark": job.benchmark is not None,
        "conda": DeploymentMethod.CONDA in methods and bool(job.conda_env_spec),
        "container": DeploymentMethod.APPTAINER in methods and bool(job.container_img_url),
        "environment modules": DeploymentMethod.ENV_MODULES in methods and bool(job.env_modules),
        "storage": not shares_files or any(getattr(file, "is_storage", False) for file in files),
        "cache": workflow.workflow_settings.cache is not None and bool(job.rule.cache),
    }
    return [name for name, present in found.items() if present]


def choose_launcher(workflow: Workflow, job: AbstractJob, choice: LauncherChoice) -> Launcher:
    """Return how to launch `job`; raise a WorkflowError when `choice` asks for what the rule doesn't allow."""
    if choice is LauncherChoice.NESTED:
        return Launcher.NESTED
    obstacles = obstacles_to_direct(workflow, job)
    if obstacles and choice is LauncherChoice.DIRECT:
        raise WorkflowError(
            f"rule {job.name}: --submitit-launcher=direct needs a plain shell rule, this one has "
            f"{', '.join(obstacles)}; use --submitit-launcher=auto"
        )
    return Launcher.NESTED if obstacles else Launcher.DIRECT


def identify(job: AbstractJob, launcher: Launcher) -> Identity:
    """Return who `job` is. Paths inside the working directory count as relative to it, so that checkouts agree.

    A rule whose journal's path already says what the result depends on says so by the resource `journal_spec`: that then
    stands for the command, which may differ between two checkouts (another interpreter) for one and the same result.
    """
    workdir = str(Path.cwd())
    members: list[Job] = sorted(job.jobs, key=str) if job.is_group() else [job]
    key = _digest(workdir, *(part for member in members for part in _who(member)))
    journal = None if job.is_group() else job.resources.get("journal")
    given = None if job.is_group() else job.resources.get("journal_spec")
    what = [str(given)] if given else [launcher, *(part for member in members for part in _what(member))]
    spec = _digest(workdir, *what)
    folder = Path(str(journal)) if journal else Path(".submitit") / key
    return Identity(key, spec, Path(workdir) / folder, bool(journal))


def direct_command(job: Job, command: str) -> tuple[str, str]:
    """Return the shell, and its command line as Snakemake itself would run the shell rule's `command`."""
    from snakemake.shell import shell

    executable = job.resources.get("shell_exec") or shell.get_executable() or "/bin/sh"
    prefix, suffix = shell._get_process_prefix(executable), shell._process_suffix
    return str(executable), f"{prefix}{command}{suffix}"


def _who(job: Job) -> list[str]:
    wildcards = sorted(f"{name}={value}" for name, value in job.wildcards_dict.items())
    return [job.rule.name, *wildcards, *sorted(str(file) for file in job.output)]


def _what(job: Job) -> list[str]:
    # A nested Snakemake reads the rule anew, so its command says nothing: what the rule would run does.
    code = job.rule.script or job.rule.notebook or job.rule.wrapper or job.rule.name
    parameters = sorted(f"{name}={value!r}" for name, value in job.params.items())
    plain = [] if job.is_shell else [str(code), *parameters]
    return [job.shellcmd or "", *plain, *sorted(str(file) for file in job.input)]


def _digest(workdir: str, *parts: str) -> str:
    relative = [part.replace(workdir + os.sep, "").replace(workdir, ".") for part in parts]
    return hashlib.sha256("\0".join(relative).encode()).hexdigest()[:16]
