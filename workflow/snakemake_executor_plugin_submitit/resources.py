"""From a rule's resources to what submitit asks of the cluster."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from snakemake_interface_common.exceptions import WorkflowError

_PASSED_ON = ("constraint", "qos", "exclude", "nodelist", "gres", "gpus_per_task", "cpus_per_gpu", "mem_per_gpu", "exclusive")
_PASSED_ON_AS = {"slurm_partition": "partition", "slurm_account": "account"}


@dataclass(frozen=True)
class Request:
    """What one job needs."""

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    mem_mb: int = 0
    """Memory per node in MB; 0: the site's default."""
    runtime_minutes: int = 0
    """Time limit; 0: the site's default, none on the local machine."""
    gpus_per_node: int = 0

    @property
    def ranks(self) -> int:
        """Number of tasks."""
        return self.nodes * self.tasks_per_node

    @property
    def cores(self) -> int:
        """Cores of all tasks together."""
        return self.ranks * self.cpus_per_task


def read_request(rule: str, resources: Mapping[str, object], threads: int) -> Request:
    """Read what `rule` asks for; raise a WorkflowError that names the resource that makes no sense."""

    def number(name: str) -> int:
        return _number(rule, resources, name, 0)

    nodes = number("nodes") or 1
    tasks = number("tasks")
    tasks_per_node = number("tasks_per_node") or (tasks // nodes if tasks else 1)
    if tasks and nodes * tasks_per_node != tasks:
        raise WorkflowError(
            f"rule {rule}: tasks={tasks} is not nodes={nodes} times tasks_per_node={tasks_per_node}; "
            f"use tasks={nodes * max(1, tasks_per_node)} or leave tasks out"
        )
    return Request(
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        cpus_per_task=number("cpus_per_task") or max(1, threads),
        mem_mb=number("mem_mb"),
        runtime_minutes=number("runtime"),
        gpus_per_node=number("gpus_per_node") or number("gpu"),
    )


def hang_seconds(rule: str, resources: Mapping[str, object], default: int) -> int:
    """Return the silence in seconds that is a hang for `rule`; 0: none is."""
    return _number(rule, resources, "hang_seconds", default)


def _number(rule: str, resources: Mapping[str, object], name: str, default: int) -> int:
    value = resources.get(name)
    try:
        result = int(str(value)) if value is not None else default
    except ValueError:
        result = -1
    if result < 0:
        raise WorkflowError(f"rule {rule}: resource {name}={value!r} is not a whole number, 0 or more; give one")
    return result


def setup_lines(resources: Mapping[str, object]) -> list[str]:
    """Return the lines of the `slurm_setup` resource, which run before the ranks start; a shell reads them, `;` and all."""
    return [line.strip() for line in str(resources.get("slurm_setup") or "").splitlines() if line.strip()]


def slurm_parameters(
    rule: str,
    request: Request,
    resources: Mapping[str, object],
    comment: str,
    signal_delay_seconds: int,
    bad_nodes: Sequence[str] = (),
) -> dict[str, object]:
    """Return submitit's parameters for `request` on Slurm, without `bad_nodes`; `comment` finds a dead submitter's job."""
    parameters: dict[str, object] = {
        "job_name": rule,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "cpus_per_task": request.cpus_per_task,
        "comment": comment,
        "wckey": None,  # submitit's default is refused where wckeys are tracked
        "stderr_to_stdout": True,
        "signal_delay_s": signal_delay_seconds,
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": setup_lines(resources),
        "time": request.runtime_minutes or None,
    }
    if request.mem_mb:
        parameters["mem"] = f"{request.mem_mb}M"
    if request.gpus_per_node:
        parameters["gpus_per_node"] = request.gpus_per_node
    for name in (*_PASSED_ON, *_PASSED_ON_AS):
        if resources.get(name) not in (None, ""):
            parameters[_PASSED_ON_AS.get(name, name)] = resources[name]
    if bad_nodes:
        parameters["exclude"] = ",".join(filter(None, [str(parameters.get("exclude", "")), *bad_nodes]))
    parameters["additional_parameters"] = {"requeue": True, **_extra_flags(rule, resources)}
    return parameters


def _extra_flags(rule: str, resources: Mapping[str, object]) -> dict[str, object]:
    flags: dict[str, object] = {}
    if resources.get("slurm_reservation"):
        flags["reservation"] = resources["slurm_reservation"]
    for word in shlex.split(str(resources.get("slurm_extra") or "")):
        if not word.startswith("--"):
            raise WorkflowError(
                f"rule {rule}: slurm_extra has {word!r}; write long flags with a value after '=', such as --licenses=matlab:1"
            )
        name, has_value, value = word[2:].partition("=")
        flags[name] = value if has_value else True
    return flags
