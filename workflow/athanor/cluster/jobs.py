"""The jobs that a recipe's stages become at a site, and the batch script that the executor would submit for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from snakemake_executor_plugin_submitit.resources import Request, read_request, slurm_parameters
from snakemake_executor_plugin_submitit.slurm import AttemptSlurmExecutor

_MANY = 3
_SIGNAL_SECONDS = 120  # before walltime, as the executor's own default


@dataclass(frozen=True)
class StageJob:
    """The job of one stage, or of several that ask for the same."""

    stages: tuple[str, ...]
    resources: Mapping[str, object]
    """In the executor's words, as the rules give them."""
    prefix: str
    """The site's launch prefix."""
    python: str
    """The stage's interpreter."""
    keys: Mapping[str, str]
    """Which key of the site file holds `partition`, `runtime` …: `resources.default.partition`."""
    packages: Mapping[str, str]
    """Package → pinned version, of all the stages."""

    @property
    def name(self) -> str:
        """`pretrain`, or `fetch and 7 more stages`."""
        others = len(self.stages) - 1
        return ", ".join(self.stages) if others < _MANY else f"{self.stages[0]} and {others} more stages"

    @property
    def partition(self) -> str:
        """The partition it names; empty for the default one."""
        return str(self.resources.get("slurm_partition", ""))

    def request(self) -> Request:
        """What it needs. Raises WorkflowError."""
        return read_request(self.name, self.resources, 1)


def merge(jobs: Sequence[StageJob]) -> list[StageJob]:
    """Jobs that ask for the same, and are started the same way, made one."""
    found: dict[tuple[object, ...], StageJob] = {}
    for job in jobs:
        same = (tuple(sorted(job.resources.items(), key=str)), job.prefix, job.python)
        if same in found:
            before = found[same]
            stages = tuple(dict.fromkeys([*before.stages, *job.stages]))
            job = replace(before, stages=stages, packages={**before.packages, **job.packages})
        found[same] = job
    return list(found.values())


def batch_script(job: StageJob, folder: Path, name: str, command: str) -> str:
    """The script that the executor would submit for `job`, with another name and command, and its logs in `folder`."""
    executor = AttemptSlurmExecutor(folder)
    executor.update_parameters(**slurm_parameters(name, job.request(), job.resources, name, _SIGNAL_SECONDS))
    return str(executor._make_submission_file_text(command, ""))
