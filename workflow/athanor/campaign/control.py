"""End a stage's job, and start a stage again: what a person does about a running campaign, from any terminal."""

import os
import sys
from collections.abc import Iterator, Sequence

from athanor.campaign.campaign import Campaign
from athanor.campaign.state import State, latest_attempt, state_of
from athanor.recipe.graph import Artifact
from athanor.recipe.loading import project_folder
from snakemake_executor_plugin_submitit.backend import LocalBackend, SlurmBackend
from snakemake_executor_plugin_submitit.journal import Action, Attempt, JobKind, JobRecord, Judgement, replace
from snakemake_executor_plugin_submitit.processes import is_here
from snakemake_executor_plugin_submitit.slurm import Slurm

_QUEUE_POLL_SECONDS = 30.0


def cancel(campaign: Campaign, artifacts: Sequence[Artifact]) -> Iterator[str]:
    """End the jobs of those artifacts that have a live one; say what was done, one line each."""
    slurm = SlurmBackend(Slurm(_QUEUE_POLL_SECONDS))
    for artifact in artifacts:
        path = latest_attempt(campaign.store.folder(artifact))
        attempt = Attempt(path) if path is not None else None
        job = attempt.job() if attempt is not None and attempt.end() is None else None
        if job is None or job.kind is JobKind.NONE:
            continue
        if job.kind is JobKind.SLURM:
            slurm.cancel(job)
            yield f"{artifact.name}: cancelled {job}"
        else:
            yield f"{artifact.name}: {_cancel_local(job)}"


def _cancel_local(job: JobRecord) -> str:
    if job.process is not None and not is_here(job.process):
        return f"{job} runs on {job.process.host}; cancel it there"
    LocalBackend().cancel(job)
    return f"cancelled {job}"


def retry(campaign: Campaign, artifacts: Sequence[Artifact], *, roll_back: bool) -> list[str]:
    """Return the snakemake command that makes exactly these artifacts and what they need.

    With `roll_back` the next attempt of a failed one goes on from before its newest checkpoint.
    """
    for artifact in artifacts if roll_back else ():
        folder = campaign.store.folder(artifact)
        path = latest_attempt(folder)
        if path is not None and state_of(folder) is State.FAILED:
            replace(path, Judgement("rolled back by hand", Action.ROLL_BACK))
    settings = [f"recipe={campaign.recipe_given}", f"site={campaign.site.name}", f"campaign={campaign.name}"]
    if campaign.overrides:
        settings.append(f"set=[{','.join(campaign.overrides)}]")
    targets = [str(campaign.store.manifest_path(artifact)) for artifact in artifacts]
    return [sys.executable, "-m", "snakemake", *targets, "--config", *settings]


def become(command: Sequence[str]) -> None:
    """Run the command in this process's place, in the project's folder."""
    os.chdir(project_folder())
    os.execv(command[0], list(command))
